"""Small random models of every causal architecture that transformers has, found in transformers' own list.

What plain transformers computes with them is right; ours is held against it.
"""

import functools
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 120
END = 1

# Argument of a configuration → its value in a small model.
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "pad_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim", "emb_dim"), 32
    ),
    **dict.fromkeys(("attention_hidden_size", "lru_width", "embedding_dim", "model_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "kv_channels", "d_kv", "global_head_dim", "swa_head_dim"), 8),
    **dict.fromkeys(("v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "swa_v_head_dim"), 8),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "intermediate_size_mlp", "d_inner"), 48),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "dense_intermediate_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(
        ("kv_lora_rank", "q_lora_rank", "laurel_rank", "adapter_rank", "o_lora_rank", "index_head_dim"), 16
    ),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads", "mamba_n_groups", "n_groups"), 2),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_key_heads", "index_n_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 4),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length"), 512),
    "rotary_dim": 4,
    "hidden_size_per_layer_input": 8,
    "initializer_range": 0.3,
    "init_std": 0.3,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": 0,
}


_PICTURES = {"image_size": 16, "patch_size": 8, "num_channels": 3, "depth": 2, "out_hidden_size": 32}

# Kinds whose numbers must fit together in ways of their own.
_MLA = {"num_key_value_heads": 4}  # latent attention has no groups of heads
_HYBRID = {"num_hidden_layers": 4}  # every fourth layer attends
_BERT = {"is_decoder": True}
_SSD = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "minicpm3"), _MLA),
    **dict.fromkeys(("glm_moe_dsa", "longcat_flash", "youtu", "dots3_note_text"), _MLA),
    **dict.fromkeys(
        ("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text", "lfm3", "bailing_hybrid"), _HYBRID
    ),
    **dict.fromkeys(("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie"), _BERT),
    **dict.fromkeys(("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roformer"), _BERT),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl", "reformer"), _BERT),
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid"), _SSD),
    "big_bird": {**_BERT, "attention_type": "original_full"},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "cwm": {"bos_token_id": 2},
    "modernbert-decoder": {"bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 512},
    "gemma3n_text": {
        "num_hidden_layers": 5,
        "intermediate_size": [48] * 5,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0] * 5,
    },
    "falcon_h1": {**_SSD, "mamba_d_ssm": 64},
    "bamba": {**_SSD, "attn_layer_indices": [1]},
    "granitemoehybrid": {**_SSD, "layer_types": ["mamba", "attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "kimi_linear": {**_MLA, "num_hidden_layers": 5, "linear_head_dim": 8, "linear_num_heads": 4},
    "bailing_hybrid": {
        **_MLA,
        "num_hidden_layers": 6,
        "num_expert_group": 1,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
    },
    "roc_bert": {
        **_BERT,
        "pronunciation_vocab_size": 8,
        "shape_vocab_size": 8,
        "pronunciation_embed_dim": 8,
        "shape_embed_dim": 8,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_expand": 2,
        "hybrid_layer_ids": [1],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}


def _arguments(known: Any) -> dict[str, Any]:
    found = {name: _SMALL[name] for name in known.to_dict() if name in _SMALL}
    for name in known.sub_configs:
        part = getattr(known, name, None)
        if part is not None:
            found[name] = {**_arguments(part), **_OWN.get(part.model_type, {})}
            found[name] |= (
                {key: value for key, value in _PICTURES.items() if hasattr(part, key)} if "vision" in name else {}
            )
    return found


# Kinds that are no language models of text alone, or that this machine can't make small; each with the reason.
LEFT_OUT = {
    **dict.fromkeys(("cpmant", "prophetnet", "xlnet"), "a token depends on later ones"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "of sound"),
    **dict.fromkeys(
        ("emu3", "mllama", "phi4_multimodal", "qwen4_exp", "dots3_note"), "of pictures; no small one can be made"
    ),
    **dict.fromkeys(("gemma4_assistant", "gemma4_unified_assistant"), "part of another model"),
    "blt": "of bytes, with a second model inside",
    "gemma3n": "its pictures need the package timm",
    "cohere_compass_text": "transformers' defaults do not fit together",
    "qwen4_exp_text": "transformers' defaults do not fit together",
    "dbrx": "transformers' defaults do not fit together",
    "reformer": "positions are a product of two fixed sizes",
    "xlstm": "wrong shapes in transformers itself",
    "xlm": "answers behind a mask token that it adds to the text",
    "xmod": "needs a language to be chosen",
    "zamba": "no small one can be made: its shared layers are named by number",
}

# Name → kind and further arguments: what a configuration can switch on in a kind.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "llama, dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}, "max_position_embeddings": 32},
    ),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "phi3, longrope": (
        "phi3",
        {
            "original_max_position_embeddings": 32,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1, 1.2, 1.3],
                "long_factor": [2.0, 3.0, 4.0, 5.0],
                "original_max_position_embeddings": 32,
                "partial_rotary_factor": 1.0,
            },
        },
    ),
    "mistral, window 16": ("mistral", {"sliding_window": 16}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "qwen2, window 16 in one layer": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "gemma2, window 16": ("gemma2", {"sliding_window": 16}),
    "gemma2, soft caps": ("gemma2", {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma2, soft cap of logits alone": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": 3.0}),
    "gemma3_text, window 16": ("gemma3_text", {"sliding_window": 16}),
    "gpt_oss, window 16": ("gpt_oss", {"sliding_window": 16}),
    "gpt2, scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3}),
    "granite, scaled": (
        "granite",
        {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1},
    ),
    "granitemoe, scaled": ("granitemoe", {"logits_scaling": 8.0}),
    "cohere, scaled": ("cohere", {"logit_scale": 0.0625}),
    "hyperclovax, scaled": ("hyperclovax", {"logits_scaling": 0.25}),
    "mixtral, router's logits": ("mixtral", {"output_router_logits": True}),
    "opt, projected": ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "falcon, alibi": ("falcon", {"alibi": True, "multi_query": False, "num_kv_heads": 4}),
    "falcon, one key-value head": ("falcon", {"alibi": False, "multi_query": True}),
    "llama4_text, chunks of 16": ("llama4_text", {"attention_chunk_size": 16}),
    "gemma3n_text, shared keys": (
        "gemma3n_text",
        {
            "num_hidden_layers": 10,
            "num_kv_shared_layers": 5,
            "intermediate_size": [48] * 10,
            "activation_sparsity_pattern": [0.0] * 10,
        },
    ),
}
ARCHITECTURES = [*(kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind not in LEFT_OUT), *VARIANTS]


@functools.cache
def config(name: str) -> Any:
    """The configuration of one of ARCHITECTURES."""
    kind, more = VARIANTS.get(name, (name, {}))
    default = AutoConfig.for_model(kind)
    return AutoConfig.for_model(kind, **_arguments(default) | _OWN.get(kind, {}) | more)


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """A model of a few thousand weights, all of them random, norms and biases too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(name), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    for weights in model.parameters():
        if weights.ndim == 1:
            weights.data += 0.1 * torch.randn(weights.shape, generator=generator)
        elif not weights.isfinite().all() or not weights.any():
            weights.data = 0.3 * torch.randn(weights.shape, generator=generator)
    return model
