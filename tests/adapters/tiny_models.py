"""Tiny causal language models of transformers with random weights, one per architecture: nothing is downloaded."""

from __future__ import annotations

import os
import warnings
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it says that fast kernels are missing
os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 29
WINDOW = 7
"""Of sliding windows: shorter than what tests run, so that windows fill and slide."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # the default of 0.02 leaves layers that small that their faults drown
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MAMBA = {name: _SIZES[name] for name in ("vocab_size", "hidden_size", "initializer_range", "num_hidden_layers")} | {
    "state_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MAMBA2_MIXER = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_DELTA = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_intermediate_size": 24,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
}
_LINEAR_THEN_FULL = {"layer_types": ["linear_attention", "linear_attention", "full_attention"], "num_hidden_layers": 3}

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    # recurrent
    "mamba": ("MambaConfig", _MAMBA | {"time_step_rank": 4}),
    "mamba2": ("Mamba2Config", _MAMBA | {"num_heads": 4, "head_dim": 16, "n_groups": 2, "chunk_size": 8}),
    "falcon_mamba": ("FalconMambaConfig", _MAMBA | {"time_step_rank": 4}),
    "rwkv": (
        "RwkvConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 64, "rescale_every": 1},
    ),
    "xlstm": (
        "xLSTMConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_heads": 2, "chunk_size": 8}
        | {"qk_dim_factor": 1.0},
    ),
    # recurrent and attention
    "bailing_hybrid": (
        "BailingHybridConfig",
        _SIZES | _LATENT | {"num_hidden_layers": 3, "layer_group_size": 3, "head_dim": 8, "first_k_dense_replace": 1},
    ),
    "bamba": (
        "BambaConfig",
        _SIZES | _MAMBA2_MIXER | {"attn_layer_indices": [1], "num_hidden_layers": 3},
    ),
    "falcon_h1": ("FalconH1Config", _SIZES | _MAMBA2_MIXER | {"mamba_d_ssm": 64}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        _SIZES
        | _MAMBA2_MIXER
        | {"layer_types": ["mamba", "attention"], "num_local_experts": 4, "shared_intermediate_size": 24},
    ),
    "jamba": (
        "JambaConfig",
        _SIZES
        | {"num_hidden_layers": 3, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4}
        | {"mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "kimi_linear": (
        "KimiLinearConfig",
        _SIZES
        | _LATENT
        | _LINEAR_THEN_FULL
        | {"linear_head_dim": 8, "linear_num_heads": 4, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    ),
    "lara_mini": (
        "LaraMiniConfig",
        {name: value for name, value in _SIZES.items() if name != "intermediate_size"}
        | _DELTA
        | _EXPERTS
        | {"head_dim": 8, "shared_expert_intermediate_size": 24, "sliding_window": WINDOW, "num_hidden_layers": 3}
        | {"layer_types": ["linear_attention", "sliding_attention", "full_attention"]},
    ),
    "lfm2": ("Lfm2Config", _SIZES | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False}),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        _SIZES | _EXPERTS | {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    ),
    "lfm3": (
        "Lfm3Config",
        _SIZES
        | {"head_dim": 8, "sliding_window": WINDOW, "num_hidden_layers": 3}
        | {"layer_types": ["conv", "full_attention", "sliding_attention"]},
    ),
    "minimax": (
        "MiniMaxConfig",
        _SIZES
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "num_local_experts": 4,
            "block_size": 8,
            "head_dim": 8,
        },
    ),
    "nemotron_h": (
        "NemotronHConfig",
        {name: value for name, value in _SIZES.items() if name != "num_hidden_layers"}
        | {"layers_block_type": ["mamba", "attention", "moe", "mamba"], "head_dim": 8}
        | {"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8}
        | {"n_routed_experts": 4, "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24},
    ),
    "olmo_hybrid": ("OlmoHybridConfig", _SIZES | _DELTA | _LINEAR_THEN_FULL | {"linear_num_key_heads": 4}),
    "qwen3_next": ("Qwen3NextConfig", _SIZES | _DELTA | _EXPERTS | _LINEAR_THEN_FULL | {"head_dim": 8}),
    "qwen3_5_text": ("Qwen3_5TextConfig", _SIZES | _DELTA | _LINEAR_THEN_FULL | {"head_dim": 8}),
    "qwen3_5_moe_text": ("Qwen3_5MoeTextConfig", _SIZES | _DELTA | _EXPERTS | _LINEAR_THEN_FULL | {"head_dim": 8}),
    "qwen4_exp_text": (
        "Qwen4ExpTextConfig",
        {name: value for name, value in _SIZES.items() if name != "intermediate_size"}
        | _DELTA
        | _EXPERTS
        | {"layer_types": ["linear_attention", "indexed_attention"], "head_dim": 8, "hc_count": 2, "hc_lowrank": 8}
        | {"shared_expert_intermediate_size": 24, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8}
        | {"indexer_budget": 4, "indexer_compress_ratio": 2, "ple_layer_ids": [1], "ple_embed_dim": 16}
        | {"ngram_vocab_size_base": 50, "heads_per_ngram": 2, "split_ngram_parts": 1},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaConfig",
        {name: _SIZES[name] for name in ("vocab_size", "hidden_size", "num_attention_heads", "num_key_value_heads")}
        | {"num_hidden_layers": 3, "intermediate_size": 96, "attention_window_size": WINDOW},
    ),
    "zamba": (
        "ZambaConfig",
        _SIZES
        | {"layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"], "num_hidden_layers": 4}
        | {"num_key_value_heads": 4, "n_mamba_heads": 2, "mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "zamba2": (
        "Zamba2Config",
        _SIZES
        | {"layers_block_type": ["linear_attention", "hybrid", "linear_attention"], "num_hidden_layers": 3}
        | {"num_key_value_heads": 4, "n_mamba_heads": 4, "mamba_d_state": 8, "chunk_size": 8, "mamba_ngroups": 1}
        | {"use_shared_attention_adapter": True, "adapter_rank": 4, "num_mem_blocks": 1},
    ),
    "zaya": (
        "ZayaConfig",
        {name: value for name, value in _SIZES.items() if name != "intermediate_size"}
        | _EXPERTS
        | {"num_experts_per_tok": 1, "head_dim": 8, "router_hidden_size": 16},
    ),
    # attention
    "llama": ("LlamaConfig", _SIZES),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
        | {"bos_token_id": 1, "eos_token_id": 2},
    ),
    "qwen3": ("Qwen3Config", _SIZES | {"head_dim": 8}),
    "gemma": ("GemmaConfig", _SIZES | {"head_dim": 8}),
    "mistral": ("MistralConfig", _SIZES | {"sliding_window": WINDOW}),
    "gemma3_text": (
        "Gemma3TextConfig",
        _SIZES | {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    ),
}
"""By `model_type`: the configuration's class, and what it is given."""


def build_model(architecture: str, seed: int = 0) -> Any:
    """A model in eval mode, float32, with weights from `seed`."""
    import torch
    import transformers

    name, options = CONFIGURATIONS[architecture]
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # of configurations that were not made for this size
        torch.manual_seed(seed)
        configuration = getattr(transformers, name)(**options)
        model = transformers.AutoModelForCausalLM.from_config(configuration).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if bool((parameter == parameter.flatten()[0]).all()):  # zeros and ones hide what they are multiplied by
                    parameter += 0.2 * torch.randn_like(parameter)
        return model
