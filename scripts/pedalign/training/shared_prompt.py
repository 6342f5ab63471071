"""Computes the prompt of a preference pair once for both replies, if the model allows it."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from pedalign.core.processes import everywhere
from pedalign.models.log_probs import agree
from pedalign.training.trl_log_probs import computing_dtype

_BY_TOKEN = ("log_probs", "entropy", "mean_logits", "is_top1")  # outputs of TRL's head for every token but the first


class PromptOnce:
    """Replaces the model in TRL's DPOTrainer, which has two rows per pair: prompt and chosen, prompt and rejected.

    The two are computed as one row: prompt, chosen, the prompt's last token again, rejected. The rejected reply and the
    token before it do not see the chosen one, and have the same positions as in a row of their own. So the results are
    those of two rows, except for rounding.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, **options: Any
    ) -> SimpleNamespace:
        """All tensors are (2 x pairs, tokens): the chosen rows, then the rejected ones, padded at the end."""
        pairs, length = len(input_ids) // 2, input_ids.shape[1]
        starts = (labels[:pairs] != -100).int().argmax(1).tolist()  # where the replies of each pair begin
        ends = attention_mask.sum(1).tolist()
        rows = list(zip(range(pairs), starts, ends[:pairs], ends[pairs:], strict=True))

        def joined(of: torch.Tensor, filling: int) -> torch.Tensor:
            both = [torch.cat([of[at, :end], of[pairs + at, start - 1 : last]]) for at, start, end, last in rows]
            return pad_sequence(both, batch_first=True, padding_value=filling)

        positions = torch.arange(length, device=input_ids.device).expand(2 * pairs, -1)
        ids = joined(input_ids, 0)
        visible = torch.ones(pairs, 1, ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device).tril()
        for at, start, end, _ in rows:
            visible[at, :, end:, start - 1 : end] = False
        outputs = self.model(
            input_ids=ids,
            attention_mask=visible,  # with four dimensions it is used as it is
            position_ids=joined(positions, 0),
            labels=joined(labels, -100),
            **options,
        )

        def parted(joint: torch.Tensor) -> torch.Tensor:
            both = joint.new_zeros(2 * pairs, length - 1)
            for at, start, end, last in rows:
                both[at, : end - 1] = joint[at, : end - 1]
                both[pairs + at, start - 1 : last - 1] = joint[at, end : end + last - start]
            return both

        parts = {name: parted(getattr(outputs, name)) for name in _BY_TOKEN}
        return SimpleNamespace(**parts, aux_loss=getattr(outputs, "aux_loss", None))


@torch.no_grad()
def can_share_prompts(trainer: Any, batches: Sequence[dict[str, torch.Tensor]]) -> bool:
    """Whether PromptOnce gives the same log-probabilities as two rows, on `batches` (its `input_ids`, `attention_mask`
    and `labels`).

    It does not if attention is not full attention over one mask (windows shorter than the rows, ALiBi, sinks, recurrent
    layers), or for a mixture of experts whose auxiliary loss is a mean over tokens. All processes of a training return
    the same.
    """
    model, was_training = trainer.model, trainer.model.training
    model.eval()  # with dropout, no two results are the same
    try:
        same = all(_is_same(trainer, batch) for batch in batches)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # an architecture may raise anything at a mask of four dimensions
        same = False
    model.train(was_training)
    return everywhere(same)


def _is_same(trainer: Any, batch: dict[str, torch.Tensor]) -> bool:
    options: dict[str, Any] = {"output_router_logits": True} if trainer.aux_loss_enabled else {}
    batch = {name: one.to(trainer.model.device) for name, one in batch.items()}
    with trainer.accelerator.autocast():
        once, twice = (
            model(**batch, **options, use_cache=False, fused_lm_head=True)
            for model in (PromptOnce(trainer.model), trainer.model)
        )
    if once.aux_loss is not None:
        return False
    trained = batch["labels"][:, 1:] != -100
    return agree(once.log_probs[trained], twice.log_probs[trained], computing_dtype(trainer))
