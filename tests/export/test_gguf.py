"""GGUF files: read back by the gguf package, and, where a Python with llama_cpp is named, answered with by llama.cpp."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from rlaif_dpo.errors import UserError
from rlaif_dpo.export.gguf import check_architecture, write_gguf
from rlaif_dpo.export.ollama import derive_turns
from rlaif_dpo.models.chat import render, stop_ids
from rlaif_dpo.models.load import load_model
from rlaif_dpo.models.source import model_source
from rlaif_dpo.pipeline import export_run
from rlaif_dpo.pipeline.stage import read_prompts
from rlaif_dpo.progress import Silent
from rlaif_dpo.recipe.schema import Model
from tests.export.test_ollama import CONVERSATIONS, TEMPLATES, chat, fill_in
from tests.export.test_vocabulary import TEXT, families
from tests.llama_cpp import PYTHON, needs_llama_cpp

gguf = pytest.importorskip("gguf", reason="needs the gguf package: pip install 'rlaif-dpo[gguf]'")
LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
CONFIGS: dict[str, tuple[type, dict[str, Any], str]] = {
    "llama": (LlamaConfig, {"attention_bias": True}, "llama-bpe"),
    "llama 3.1": (LlamaConfig, {"rope_parameters": LLAMA_3_ROPE, "tie_word_embeddings": True}, "llama-bpe"),
    "linear": (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}}, "gpt-2"),
    "mistral": (MistralConfig, {"head_dim": 32, "sliding_window": None}, "qwen2"),
    "smollm": (LlamaConfig, {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}, "smollm"),
    "qwen2": (Qwen2Config, {}, "qwen2"),
    "qwen3": (Qwen3Config, {"head_dim": 32, "tie_word_embeddings": True}, "qwen2"),
}
TEXTS = (*TEXT[:1], "She said: it's 42.5 degrees, isn't it?\n\n\n   Yes  ", "\tkeep  off\r\n 1234567 naïve 你好吗 🙂!!", "")


def family_folder(folder: Path, name: str, tokenizer: Any = None) -> Path:
    """A random model of a family's architecture, its norms and biases too, with a tokenizer that splits as the family's does."""
    kind, settings, splits = CONFIGS[name]
    tokenizer = tokenizer or families()[splits]
    common = {
        "vocab_size": len(tokenizer) + 5, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2,
        "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**common | settings))
    for key, weights in model.named_parameters():
        if weights.ndim == 1:
            torch.nn.init.normal_(weights, mean=0.0 if key.endswith("bias") else 1.0, std=0.2)
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read_back(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors in the shape of the checkpoint, and metadata."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return {tensor.name: tensor.data for tensor in reader.tensors}, fields


def test_every_tensor_of_the_sandbox_is_there(tmp_path: Path) -> None:
    """4 layers of 9 tensors, the embedding and the last norm: 38; the tied head is left out.

    Query rows stand in pairs: row 2i + j of a head was row i + 16j, of 32.
    """
    folder = Path(model_source("sandbox"))
    write_gguf(folder, tmp_path / "x.gguf", "sandbox", Silent())
    tensors, fields = read_back(tmp_path / "x.gguf")
    weights = load_file(folder / "model.safetensors")
    assert len(tensors) == 38
    assert np.array_equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"].half().numpy())
    assert tensors["blk.0.attn_norm.weight"].dtype == np.float32
    query, written = weights["model.layers.0.self_attn.q_proj.weight"].half().numpy(), tensors["blk.0.attn_q.weight"]
    for head, i, j in ((0, 0, 0), (0, 3, 1), (5, 15, 1)):
        assert np.array_equal(written[32 * head + 2 * i + j], query[32 * head + i + 16 * j])
    assert fields["general.architecture"] == "llama"
    assert fields["tokenizer.ggml.pre"] == "gpt-2" and fields["tokenizer.ggml.add_bos_token"] is False
    assert len(fields["tokenizer.ggml.tokens"]) == 1536
    assert "<|im_start|>" in fields["tokenizer.chat_template"]
    assert [path.name for path in tmp_path.iterdir()] == ["x.gguf"]


@pytest.mark.parametrize("name", CONFIGS)
def test_each_architecture_has_a_place_for_each_tensor(tmp_path: Path, name: str) -> None:
    folder = family_folder(tmp_path / "model", name)
    write_gguf(folder, tmp_path / "x.gguf", name, Silent())
    tensors, fields = read_back(tmp_path / "x.gguf")
    config, weights = AutoConfig.from_pretrained(folder), load_file(folder / "model.safetensors")
    factors = int(name == "llama 3.1")
    assert len(tensors) == len(weights) + factors
    assert sum(data.size for key, data in tensors.items() if key != "rope_freqs.weight") == sum(
        w.numel() for w in weights.values()
    )
    arch = fields["general.architecture"]
    assert arch == {"qwen2": "qwen2", "qwen3": "qwen3"}.get(name, "llama")
    assert fields[f"{arch}.attention.head_count_kv"] == 2
    assert fields[f"{arch}.attention.key_length"] == (getattr(config, "head_dim", None) or 16)
    assert fields["tokenizer.ggml.token_type"][-4:] == [5] * 4


def test_llama_3_1_divides_its_slow_frequencies(tmp_path: Path) -> None:
    """Of 8 frequencies 10000^(-i/8) over 64 positions: the first is fast (wavelength 6.3 < 64 / 4) and kept, the last is slow
    (wavelength 2 pi 10000^(7/8) = 19,869 > 64) and divided by 8."""
    write_gguf(family_folder(tmp_path / "model", "llama 3.1"), tmp_path / "x.gguf", "x", Silent())
    factors = read_back(tmp_path / "x.gguf")[0]["rope_freqs.weight"]
    assert factors.shape == (8,) and factors.dtype == np.float32
    assert np.allclose(factors[[0, -1]], [1.0, 8.0]) and (np.diff(factors) >= -1e-5).all()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (AutoConfig.for_model("gemma2"), "its architecture gemma2 is not one of llama, mistral, qwen2, qwen3"),
        (LlamaConfig(hidden_act="gelu"), "its activation gelu is not silu"),
        (
            Qwen2Config(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}),
            "its rotary scaling yarn is not default, linear or llama3",
        ),
        (MistralConfig(sliding_window=4096, max_position_embeddings=32768), "its attention looks back 4096 tokens only"),
    ],
    ids=["architecture", "activation", "rope", "window"],
)
def test_others_are_refused_by_name(config: Any, why: str) -> None:
    with pytest.raises(UserError) as refused:
        check_architecture(config, "me/model")
    assert str(refused.value) == f"me/model: no GGUF, {why}; run llama.cpp's convert_hf_to_gguf.py on the merged folder instead."


def llama_cpp(path: Path, texts: Sequence[str], **wanted: Any) -> Any:
    job = {"gguf": str(path), "texts": texts, "chats": [], "prompts": [], "new": 0, "stops": [], "logits": []} | wanted
    program = [PYTHON, str(Path(__file__).with_name("llama_answers.py"))]
    done = subprocess.run(program, input=json.dumps(job), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def greedy(model: Any, prompt: list[int], new: int, stops: set[int]) -> list[int]:
    tokens = model.generate(
        torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0
    )
    answer = tokens[0, len(prompt) :].tolist()
    return answer[:-1] if answer and answer[-1] in stops else answer


@pytest.mark.slow
@needs_llama_cpp
def test_llama_cpp_answers_as_transformers_does(run_of: Any) -> None:
    """The exported sandbox, 24 prompts, greedy: the same tokens. Both have the same float16 weights; llama.cpp rounds more."""
    run = run_of()
    done = export_run(run, "gguf")
    loaded = load_model(Model(path=str(run / "export" / "dpo-merged"), dtype="float32"))
    rows = read_prompts(run / "prompts.jsonl", "evaluate")
    prompts = [render(loaded.tokenizer, row.messages) for row in rows]
    stops = set(stop_ids(loaded.tokenizer, None))
    texts = [str(loaded.tokenizer.decode(prompt)) for prompt in prompts]
    chats = [row.messages for row in rows]
    found = llama_cpp(done.folder / "desk-f16.gguf", [*texts, *TEXTS], chats=chats, prompts=prompts, new=48, stops=sorted(stops))
    assert found["chats"] == prompts
    assert found["tokens"][: len(texts)] == prompts
    assert found["tokens"][len(texts) :] == [loaded.tokenizer.encode(text) for text in TEXTS]
    assert found["answers"] == [greedy(loaded.model, prompt, 48, stops) for prompt in prompts]
    assert len({tuple(answer) for answer in found["answers"]}) > len(prompts) / 2


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_computes_what_transformers_does(tmp_path: Path, name: str) -> None:
    """Logits at 100 positions of random tokens, beyond the 64 that Llama 3.1's scaling was made for.

    float16 has 11 bits: activations rounded in every product wander by some 2^-11 x sqrt(layers x products) of the logits'
    spread; .02 of it is ten times that, while a wrong order of the rows or a lost norm moves them by about the spread itself.
    """
    folder = family_folder(tmp_path / "model", name)
    write_gguf(folder, tmp_path / "x.gguf", name, Silent())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.randint(10, len(tokenizer), (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(ids).logits[0].numpy()
    found = llama_cpp(tmp_path / "x.gguf", TEXTS, logits=ids.tolist())
    assert np.abs(np.array(found["logits"][0]) - expected).max() <= 0.02 * expected.std()
    assert found["tokens"] == [tokenizer.encode(text) for text in TEXTS]


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(("template", "bos"), TEMPLATES.values(), ids=TEMPLATES)
def test_llama_cpp_writes_a_chat_as_the_model_was_trained(tmp_path: Path, template: str, bos: str | None) -> None:
    """By the file's own template, as llama.cpp fills it in, and by the Modelfile's, as Ollama does: the token ids of `render`."""
    tokenizer = chat(template, bos)
    folder = family_folder(tmp_path / "model", "llama", tokenizer)
    vocabulary = write_gguf(folder, tmp_path / "x.gguf", "x", Silent())
    turns = derive_turns(tokenizer, vocabulary.add_bos)
    assert turns is not None and vocabulary.add_bos == (bos is not None)
    expected = [render(tokenizer, messages) for messages in CONVERSATIONS]
    filled = [fill_in(turns.as_go(), messages) for messages in CONVERSATIONS]
    found = llama_cpp(tmp_path / "x.gguf", filled, chats=CONVERSATIONS)
    assert found["chats"] == expected
    assert found["tokens"] == expected
