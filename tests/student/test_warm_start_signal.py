"""A decoder made of an encoder sees its task token."""

from collections.abc import Callable
from pathlib import Path

import torch

from common.config.student import StudentConfig, TinyShape
from common.task import TaskDefinition
from student.encoding import Encoder, TaskTokens
from student.models.tiny import train_tokenizer
from student.models.warm_start import warm_start


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
