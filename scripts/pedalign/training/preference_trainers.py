"""TRL's trainers of preferences, on rows that our renderer made.

Their losses are TRL's. The rows, the log-probabilities of the policy and those of the reference are ours, so that the
proofs before a training hold for all of them.
"""

from typing import Any

import torch
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import add_fused_lm_head

from pedalign.training.shared_prompt import PromptOnce


class _Rendered:
    """`pairs_share_prompts`: a row holds a pair, whose prompt may be computed once. `shares_prompts`: it is.
    `steadied`: layers that draw at random while they train, such as a router's, do not."""

    pairs_share_prompts = True
    shares_prompts = False
    steadied = False

    def labels(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The tokens of a batch (rows, tokens) whose log-probabilities are trained on, -100 for the others."""
        return batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)

    def computing(self, model: Any) -> Any:
        """The model, as this training computes it."""
        if self.steadied:
            steady(self.model)  # type: ignore[attr-defined]
        return PromptOnce(model) if self.shares_prompts else model


class WithReference(_Rendered):
    """Rows hold token ids and reference log-probabilities already, so no second template and no second computation has
    a say."""

    def _prepare_dataset(self, dataset, *_, **__):
        return dataset

    def _precompute_ref_logps(self, dataset, *_):
        return dataset

    def _compute_loss(self, model, inputs, return_outputs):
        return super()._compute_loss(self.computing(model), inputs, return_outputs)


class RenderedDPOTrainer(WithReference, DPOTrainer):
    pass


class RenderedKTOTrainer(WithReference, KTOTrainer):
    pairs_share_prompts = False


class _ReferenceFree(_Rendered):
    """Rows hold token ids already. TRL's trainers would hold all logits of a batch; ours take log-probabilities by the
    head of the other trainers."""

    def __init__(self, model: Any, args: Any, train_dataset: Any, processing_class: Any) -> None:
        args.remove_unused_columns = False  # the collator needs them
        collator = DataCollatorForPreference(
            pad_token_id=processing_class.pad_token_id,
            max_length=args.max_length,
            pad_to_multiple_of=getattr(args, "pad_to_multiple_of", None),
        )
        rows = {"train_dataset": train_dataset, "data_collator": collator}
        super().__init__(model=model, args=args, processing_class=processing_class, **rows)  # type: ignore[call-arg]
        whole: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[attr-defined]
        add_fused_lm_head(whole, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))

    def tokenize_row(self, feature, model=None):
        return {}

    def concatenated_forward(self, model, batch):
        """As TRL's: log-probabilities of the gold replies and the wrong ones, their mean logits, and the cross-entropy
        of the gold ones."""
        pairs = len(batch["input_ids"]) // 2
        labels = self.labels(batch)
        options = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = self.computing(model)(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
            use_cache=False,
            fused_lm_head=True,
            **options,
        )
        per_token, replies = outputs.log_probs, batch["completion_mask"][:, 1:]
        of_replies = (per_token * replies).sum(1)
        if self.per_token():
            of_replies = of_replies / replies.sum(1)
        nll = -per_token[:pairs][labels[:pairs, 1:] != -100].mean()
        logits = outputs.mean_logits.detach()
        found = of_replies[:pairs], of_replies[pairs:], logits[:pairs], logits[pairs:], nll
        return (*found, outputs.aux_loss) if self.aux_loss_enabled else found


class RenderedCPOTrainer(_ReferenceFree, CPOTrainer):
    def per_token(self) -> bool:
        return self.loss_type in ("ipo", "simpo")


class RenderedORPOTrainer(_ReferenceFree, ORPOTrainer):
    pairs_share_prompts = False  # the prompt of the gold reply is trained too

    def per_token(self) -> bool:
        return True

    def labels(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """ORPO's cross-entropy is over the gold reply and its prompt, but for the first token, which nothing comes
        before."""
        pairs = len(batch["input_ids"]) // 2
        trained = batch["completion_mask"].clone()
        trained[:pairs, 1:] = batch["attention_mask"][:pairs, 1:]
        return batch["input_ids"].masked_fill(trained == 0, -100)


TRAINERS: dict[str, tuple[Any, Any]] = {
    "DPO": (RenderedDPOTrainer, DPOConfig),
    "KTO": (RenderedKTOTrainer, KTOConfig),
    "CPO": (RenderedCPOTrainer, CPOConfig),
    "ORPO": (RenderedORPOTrainer, ORPOConfig),
}


def steady(model: Any) -> None:
    """Let layers compute as they do when they answer, but for what decides about gradient checkpointing."""
    for module in model.modules():
        if module is not model and not hasattr(module, "gradient_checkpointing"):
            module.training = False
