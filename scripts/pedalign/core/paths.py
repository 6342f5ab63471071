"""The path of each artifact. Every path of the workflow is written here once."""

from dataclasses import dataclass
from pathlib import PurePath


def tutor_of(path: PurePath) -> tuple[str, str]:
    """(model, policy) of the tutor that an artifact belongs to, by the last parts of its path."""
    folder = path.parent.parent if path.parent.name in ("test", "dpo") else path.parent
    return folder.parent.name, folder.name


@dataclass(frozen=True)
class TutorPaths:
    """Paths of a fine-tuned or an aligned tutor; `folder` is <results>/<model>/<policy>."""

    folder: str

    @property
    def checkpoint(self) -> str:
        return f"{self.folder}/checkpoint"

    @property
    def manifest(self) -> str:
        """The checkpoint's manifest, written last."""
        return f"{self.folder}/checkpoint.json"

    @property
    def card(self) -> str:
        return f"{self.folder}/README.md"

    def responses(self, split: str = "test") -> str:
        return f"{self.folder}/{split}/responses.csv"

    def shard(self, split: str, shard: object, shards: object) -> str:
        return f"{self.folder}/{split}/shards/{shard}-of-{shards}.csv"

    @property
    def metrics(self) -> str:
        return f"{self.folder}/test/metrics.json"

    @property
    def perplexity(self) -> str:
        return f"{self.folder}/test/perplexity.json"

    @property
    def comparison(self) -> str:
        """The comparison of an aligned tutor with the fine-tuned one that it started from."""
        return f"{self.folder}/test/comparison.json"


@dataclass(frozen=True)
class ModelPaths:
    """Paths of a model of the catalogue; `folder` is <results>/<model>."""

    folder: str

    def tutor(self, policy: str) -> TutorPaths:
        return TutorPaths(f"{self.folder}/{policy}")

    @property
    def sft(self) -> TutorPaths:
        return self.tutor("sft")

    @property
    def base(self) -> str:
        """A model made from scratch."""
        return f"{self.folder}/base"

    @property
    def base_manifest(self) -> str:
        return f"{self.folder}/base.json"

    @property
    def audit(self) -> str:
        return f"{self.sft.folder}/audit.json"

    @property
    def reference(self) -> str:
        """The reference model's log-probabilities."""
        return f"{self.sft.folder}/reference.json"

    @property
    def preferences(self) -> str:
        return f"{self.folder}/preferences.json"

    @property
    def preferences_counts(self) -> str:
        return f"{self.folder}/preferences_counts.json"


@dataclass(frozen=True)
class Paths:
    """Paths of one folder of results; `dataset` is the name of its conversation files."""

    results: str
    dataset: str = ""

    def model(self, model: str) -> ModelPaths:
        return ModelPaths(f"{self.results}/{model}")

    def tutor(self, name: str) -> TutorPaths:
        """`name`: <model>/<policy>."""
        return TutorPaths(f"{self.results}/{name}")

    @property
    def data(self) -> str:
        return f"{self.results}/data"

    def split(self, split: str) -> str:
        """The conversations of a split."""
        return f"{self.data}/{self.dataset}-{split}.json"

    def formatted(self, split: str) -> str:
        """One row per tutor turn of a split."""
        return f"{self.data}/{self.dataset}-{split}_formatted.json"

    @property
    def imported(self) -> str:
        """The folder of conversation files that were made of raw files."""
        return f"{self.data}/imported"

    @property
    def import_report(self) -> str:
        """The report of what was changed, cut and rejected at the import."""
        return f"{self.data}/imported.json"

    @property
    def splits_report(self) -> str:
        """The report of what was drawn, cut and dropped."""
        return f"{self.data}/splits.json"

    @property
    def summary(self) -> str:
        return f"{self.results}/summary.csv"

    @property
    def report(self) -> str:
        return f"{self.results}/report.html"

    @property
    def charts(self) -> str:
        return f"{self.results}/charts"

    @property
    def time_chart(self) -> str:
        return f"{self.results}/time.svg"

    @property
    def comparison_of_speed(self) -> str:
        """What `snakemake benchmark` measures."""
        return f"{self.results}/benchmark.json"

    @property
    def logs(self) -> str:
        return f"{self.results}/logs"

    @property
    def benchmarks(self) -> str:
        """Snakemake's benchmark files."""
        return f"{self.results}/benchmarks"

    def log(self, artifact: str) -> str:
        return f"{self.logs}/{self._place(artifact)}.log"

    def benchmark(self, artifact: str) -> str:
        return f"{self.benchmarks}/{self._place(artifact)}.tsv"

    def tensorboard(self, model: str, policy: str) -> str:
        return f"{self.logs}/tensorboard/{model}/{policy}"

    def _place(self, artifact: str) -> str:
        """An artifact's path below the results, without its extension."""
        inside = artifact.removeprefix(f"{self.results}/")
        folder, slash, name = inside.rpartition("/")
        stem = "card" if name == "README.md" else name.rpartition(".")[0] or name
        return f"{folder}{slash}{stem}"
