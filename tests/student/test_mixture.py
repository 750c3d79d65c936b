"""An encoder-decoder with routed experts is trained and scored as separate passes would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from common.config.student import StudentConfig
from common.errors import StudentError
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import IGNORE, Encoder, encode_pairs
from student.models.load import Plan, load_student
from student.models.tiny import prepare_tiny, tiny_texts
from student.scoring import TorchScorer
from student.steps import Objective, micro_batch_terms

CPU = torch.device("cpu")


@pytest.mark.parametrize("signal", ["prefix", "decoder"])
def test_switch_transformers_answer_as_in_separate_passes(
    signal: str,
    task: TaskDefinition,
    tiny: Callable[..., StudentConfig],
    make_pairs: Callable[[int], list[TrainingPair]],
    tmp_path: Path,
) -> None:
    pairs, shape = make_pairs(4), tiny("seq2seq", "t5").tiny
    assert shape
    texts = tiny_texts(pairs, task, "default")
    tokenizer = AutoTokenizer.from_pretrained(prepare_tiny(tmp_path / "w", shape, texts, 1))
    settings = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
                "num_experts": 2, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1,
                "vocab_size": len(tokenizer), "decoder_start_token_id": 0, "pad_token_id": 0,
                "eos_token_id": 1}  # fmt: skip
    torch.manual_seed(0)
    loader: Any = AutoModelForSeq2SeqLM
    folder = tmp_path / "switch"
    model = loader.from_config(AutoConfig.for_model("switch_transformers", **settings))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = {"architecture": "seq2seq", "model": str(folder), "task_signal": signal}
    config = StudentConfig.model_validate(told)
    loaded = load_student(config, task, str(folder), Plan())
    loaded.module.eval()
    encoder = Encoder(config, task, loaded.tokenizer, loaded.tokens)

    @torch.no_grad()
    def alone(context: tuple[int, ...], inputs: tuple[int, ...], targets: tuple[int, ...]) -> float:
        ids, row = torch.tensor([context]), torch.tensor([inputs])
        logs = loaded.core(input_ids=ids, decoder_input_ids=row).logits[0].log_softmax(-1)
        return sum(float(logs[i, t]) for i, t in enumerate(targets) if t != IGNORE)

    examples = encode_pairs(encoder, pairs)
    terms = micro_batch_terms(loaded.module, examples, Objective(), CPU)
    (terms.label + terms.rationale).backward()  # type: ignore[no-untyped-call]
    expected = -sum(
        e.weight * alone(e.contexts[b.context], b.inputs, b.targets)
        for e in examples
        for b in e.branches
    )
    asked = encoder.encode_text(pairs[0].text)
    scored = TorchScorer(loaded.module, asked, CPU).scores([asked.contexts[0]], 1)[0]
    # "negative" and "neutral" begin with one token and part after it.
    firsts = [alone(asked.contexts[0], b.inputs[:1], b.targets[:1]) for b in asked.branches]

    assert float((terms.label + terms.rationale).detach()) == pytest.approx(expected, rel=1e-5)
    assert all(p.grad is not None for n, p in loaded.module.named_parameters() if "router" in n)
    positive = torch.tensor(firsts)[1:].log_softmax(-1)[1]
    assert float(scored[2]) == pytest.approx(float(positive), abs=1e-4)

    four_bit = StudentConfig.model_validate({**told, "lora": {}, "quantization": "nf4"})
    with pytest.raises(StudentError, match=r"student.quantization: .* type switch_transformers"):
        load_student(four_bit, task, str(folder), Plan())
