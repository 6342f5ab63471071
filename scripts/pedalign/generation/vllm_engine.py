"""Generates replies by vLLM, in its own environment (`make vllm`) with other versions of torch and transformers.

Prompts are rendered and tokenized here, as for the other engines; vLLM gets and returns token ids.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pedalign.core.artifacts import read_json, write_json
from pedalign.core.errors import UserError
from pedalign.generation import vllm_worker
from pedalign.generation.common import Completion, GenerationSettings, History, row_seed
from pedalign.generation.vllm_environment import vllm_python


def generate(
    source: str,
    dtype: str,
    histories: Sequence[History],
    end_id: int,
    settings: GenerationSettings,
    selection: Sequence[Sequence[int]] | None = None,
) -> list[list[Completion]]:
    """A completion for every prompt of every history, in their order, by the model of a checkpoint folder or hub id.

    Arguments as `shared_prefix_engine.generate`, but `max_batch_tokens` has no effect: all prompts are submitted at
    once, conversation after conversation, so that a prompt finds the keys and values of the one before it. Every GPU of
    the job has a part of the model.
    Raises UserError if vLLM is not installed or fails.
    """
    chosen = range(len(histories)) if selection is None else sorted(at for batch in selection for at in batch)
    rows = [(at, turn) for at in chosen for turn in range(len(histories[at].prompt_lengths))]
    results: list[list[Completion]] = [[] for _ in histories]
    with tempfile.TemporaryDirectory() as folder:
        job, answers = Path(folder, "job.json"), Path(folder, "answers.json")
        write_json(
            job,
            {
                "model": source,
                "dtype": dtype,
                "end_id": end_id,
                "longest": max(len(histories[at].ids) for at in chosen) + settings.max_new_tokens,
                "max_new_tokens": settings.max_new_tokens,
                "min_new_tokens": settings.min_new_tokens,
                "temperature": settings.temperature,
                "repetition_penalty": settings.repetition_penalty,
                "prompts": [histories[at].ids[: histories[at].prompt_lengths[turn]] for at, turn in rows],
                "seeds": [row_seed(settings, histories[at].id, turn) for at, turn in rows],
            },
        )
        # In one process, sampling is reproducible.
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
        }
        command = [str(vllm_python()), "-m", vllm_worker.__name__, str(job), str(answers)]
        if status := subprocess.run(command, env=environment).returncode:
            raise UserError(
                f"vLLM failed (exit status {status}) with {source}",
                "see its own message above; `engine: auto` works without vLLM",
            )
        for (at, _), (ids, finish_reason) in zip(rows, read_json(answers), strict=True):
            results[at].append(Completion(ids, finish_reason))
    return results
