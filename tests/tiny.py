"""A tiny, randomly initialised chat model in a folder: what the tests load where a user would load a real one."""

from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")
TRAINING_TEXT = ("Reply A: yes, it is. Reply B: no, it is not. Human: hello Assistant: hi A B",) * 4


def tiny_model_folder(
    tmp_path: Path,
    name: str = "tiny",
    *,
    template: str | None = CHATML,
    context_length: int = 512,
    hidden_size: int = 32,
    layers: int = 2,
    vocab_size: int = 320,
    seed: int = 0,
    weight_scale: float = 0.02,
) -> Path:
    """A random Llama with a byte-level BPE tokenizer, saved as safetensors under `tmp_path/name`; returns that folder.

    Pad is `<|pad|>`, EOS is `<|im_end|>`. `weight_scale` is the standard deviation of the weights: the larger, the further
    is the next-token distribution from uniform.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        initializer_range=weight_scale,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(seed)
    folder = tmp_path / name
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_adapter_folder(model_folder: Path, tmp_path: Path, name: str = "adapter", *, seed: int = 1, scale: float = 0.5) -> Path:
    """A random LoRA adapter (rank 4, `lora_B` not zero) for the model of `model_folder`; returns its folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=scale)
    folder = tmp_path / name
    model.save_pretrained(folder)
    return folder
