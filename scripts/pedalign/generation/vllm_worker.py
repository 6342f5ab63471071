"""Runs vLLM in its own environment: `python -m pedalign.generation.vllm_worker JOB ANSWERS`.

It needs no packages but those that come with vLLM. JOB is the file that `vllm_engine` writes; ANSWERS becomes a list of
[generated ids, finish reason], in the order of the prompts.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pedalign
from pedalign.core.processes import die_with_parent
from pedalign.core.progress import Progress


def main() -> None:
    die_with_parent()  # so that the GPU is free when the stage ends, however it ends
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(json.dumps(_answers(job)), encoding="utf-8")


def _answers(job: dict[str, Any]) -> list[tuple[list[int], str]]:
    import torch
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    pedalign.collect_as_usual()
    model = LLM(
        model=job["model"],
        dtype=job["dtype"],
        load_format="safetensors",
        skip_tokenizer_init=True,
        max_model_len=job["longest"],
        tensor_parallel_size=max(1, torch.cuda.device_count()),
        enable_prefix_caching=True,
        trust_remote_code=False,
        disable_log_stats=True,
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    sampling = [
        SamplingParams(
            max_tokens=job["max_new_tokens"],
            min_tokens=job["min_new_tokens"],
            temperature=job["temperature"],
            repetition_penalty=job["repetition_penalty"],
            seed=seed,
            stop_token_ids=[job["end_id"]],
            ignore_eos=True,
            detokenize=False,
        )
        for seed in job["seeds"]
    ]
    found = []
    for output in model.generate(prompts, sampling, use_tqdm=_progress):
        reply = output.outputs[0]
        ids = list(reply.token_ids)
        found.append((ids[:-1] if ids and ids[-1] == job["end_id"] else ids, reply.finish_reason))
    return found


def _progress(prompts: Any = None, *, total: int = 0, **_: Any) -> Any:
    """The progress bar for vLLM, which asks twice: to take the prompts, which is quick and gets none, and to answer."""
    return prompts if prompts is not None else Progress("generate", total, "replies")


if __name__ == "__main__":
    main()
