"""A decoder made of an encoder sees its task token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from common.config.student import StudentConfig, TinyShape
from common.records import TrainingPair
from common.task import TaskDefinition
from student.encoding import IGNORE, Encoder, TaskTokens, encode_pairs
from student.export.export import export_student
from student.models.load import Plan, load_student
from student.models.reload import read_whole
from student.models.tiny import train_tokenizer
from student.models.warm_start import warm_start
from student.predict import Predictor
from student.progress import TrainingSummary
from student.steps import Objective, micro_batch_terms


def test_a_lead_token_stands_before_the_task_token_and_carries_no_loss(
    task: TaskDefinition, tiny: Callable[..., StudentConfig]
) -> None:
    bpe = train_tokenizer(["Profit rose.", "Sales fell."], TinyShape(family="t5", vocabulary=400))
    tokens = TaskTokens(predict=5, explain=6, end=1, pad=0, lead=3)
    encoder = Encoder(tiny("seq2seq", "t5", task_signal="decoder"), task, bpe, tokens)

    example = encoder.encode_text("Profit rose.")

    assert all(branch.inputs[:2] == (3, 5) for branch in example.branches)
    assert all(branch.targets[0] < 0 for branch in example.branches)
    assert encoder.explain_inputs("Profit rose.")[1] == (3, 6)


def test_position_zero_of_a_real_encoder_is_blind_and_position_one_is_not(
    shared_models: Path,
) -> None:
    source = str(shared_models / "all-MiniLM-L6-v2")
    model, _, _ = warm_start(source, {"dtype": torch.float32}, {})
    model.eval()
    text = torch.tensor([[101, 3893, 4997, 102]])

    def last_state(*opening: int) -> torch.Tensor:
        with torch.no_grad():
            out = model(
                input_ids=text,
                decoder_input_ids=torch.tensor([opening]),
                output_hidden_states=True,
            )
        return out.decoder_hidden_states[-1][0, -1]  # type: ignore[no-any-return]

    blind = (last_state(1) - last_state(2)).norm() / last_state(1).norm()
    seen = (last_state(101, 1) - last_state(101, 2)).norm() / last_state(101, 1).norm()

    assert blind < 1e-3
    assert seen > 0.05


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "electra"])
def test_a_vocabulary_without_reserved_tokens_grows_on_both_sides(
    kind: str,
    task: TaskDefinition,
    make_pairs: Callable[[int], list[TrainingPair]],
    train: Callable[..., TrainingSummary],
    tmp_path: Path,
) -> None:
    pairs = make_pairs(21)
    folder = encoder_without_reserved_tokens(tmp_path / "base", kind, [p.text for p in pairs])
    student = StudentConfig.model_validate(
        {"architecture": "seq2seq", "model": str(folder), "task_signal": "decoder",
         "max_rationale_tokens": 20}
    )  # fmt: skip
    torch.manual_seed(0)
    loaded = load_student(student, task, str(folder), Plan())
    core, rows = loaded.core, len(loaded.tokenizer)
    head = core.decoder.get_output_embeddings()
    tables = (core.encoder.get_input_embeddings(), core.decoder.get_input_embeddings(), head)
    assert [len(table.weight) for table in tables] == [rows] * 3
    assert head.weight is core.decoder.get_input_embeddings().weight
    loader: Any = AutoModelForMaskedLM
    before = loader.from_pretrained(folder).get_output_embeddings()
    assert torch.equal(head.weight[:-2], before.weight)
    assert torch.equal(head.bias[:-2], before.bias)
    assert (loaded.tokens.predict, loaded.tokens.explain) == (rows - 2, rows - 1)
    assert [part.vocab_size for part in (core.config.encoder, core.config.decoder)] == [rows] * 2

    loaded.module.eval()
    encoder = Encoder(student, task, loaded.tokenizer, loaded.tokens)
    example = encode_pairs(encoder, pairs[:1])[0]
    terms = micro_batch_terms(loaded.module, [example], Objective(), torch.device("cpu"))
    alone = torch.zeros(())
    for branch in example.branches:
        context, inputs = torch.tensor([example.contexts[0]]), torch.tensor([branch.inputs])
        logs = core(input_ids=context, decoder_input_ids=inputs).logits[0].log_softmax(-1)
        alone -= sum(logs[i, t] for i, t in enumerate(branch.targets) if t != IGNORE)
    whole = (terms.label + terms.rationale).detach()
    assert float(whole) == pytest.approx(float(alone.detach()), rel=1e-5)
    core.save_pretrained(tmp_path / "saved")
    read = read_whole(tmp_path / "saved", student, Plan()).eval()
    assert torch.equal(
        read(input_ids=context, decoder_input_ids=inputs).logits[0].log_softmax(-1), logs
    )

    summary = train(pairs, student=student, max_steps=3)
    first = Predictor.load(tmp_path / "a" / "model")
    texts = [p.text for p in pairs[:4]]
    assert summary.steps == 3
    assert len(first.predict(texts, rationales=True)) == 4
    export_student(tmp_path / "a" / "model", "hf", tmp_path / "hf", texts)
    again = Predictor.load(tmp_path / "hf")
    assert torch.equal(again.scores(texts), first.scores(texts))


def encoder_without_reserved_tokens(folder: Path, kind: str, texts: list[str]) -> Path:
    """An encoder of that family, whose vocabulary has no two tokens to spare."""
    bpe = train_tokenizer(texts, TinyShape(family="bert", vocabulary=400))
    bpe.save_pretrained(folder)
    for path in folder.glob("*token*.json"):
        told = path.read_text("utf-8")
        path.write_text(told.replace("<|predict|>", "<|1|>").replace("<|explain|>", "<|2|>"))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size":
             len(bpe), "intermediate_size": 48, "pad_token_id": 0, "eos_token_id": 1,
             "max_position_embeddings": 300, "bos_token_id": 3}  # fmt: skip
    loader: Any = AutoModelForMaskedLM
    model = loader.from_config(AutoConfig.for_model(kind, **shape))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # a fresh one is zero, and would hide one that is lost
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    return folder
