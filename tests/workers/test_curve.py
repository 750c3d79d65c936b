"""Which runs a curve consists of."""

import pytest

from common.config import load_config
from common.errors import ConfigError
from common.task import CONFIGS
from workers.curve import curve_places, default_line

CONFIG = load_config(CONFIGS / "demo.yaml")


def test_the_line_is_trained_once_and_on_everything() -> None:
    places = curve_places(CONFIG, [0.5, 1.0], seeds=2, line="lora")

    with_line = [(p.fraction, p.seed) for p in places if "lora" in p.config.baselines]
    assert default_line(CONFIG) == "lora"
    assert with_line == [(1.0, CONFIG.seed)]


def test_every_share_and_seed_is_a_run_of_its_own() -> None:
    places = curve_places(CONFIG, [1.0, 0.12, 0.25], seeds=3, line=None)

    assert len({place.config.run_id for place in places}) == 9
    assert [p.fraction for p in places[:3]] == [0.12, 0.25, 1.0]
    assert {p.config.data.train_fraction for p in places} == {0.12, 0.25, None}


@pytest.mark.parametrize("fractions", [[0.0], [1.5], []])
def test_shares_outside_of_the_data_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ConfigError, match="shares lie in"):
        curve_places(CONFIG, fractions, seeds=1, line=None)


def test_an_unknown_line_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match="there: majority, tfidf, lora"):
        curve_places(CONFIG, [1.0], seeds=1, line="laro")
