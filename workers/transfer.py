"""What the systems of a run say of texts that the run has never heard of."""

from common.data.store import read_records, write_records
from common.fingerprint import digest
from common.records import Prediction
from workers.judged_texts import JudgedTexts
from workers.run_directory import Run
from workers.services import Settings
from workers.stages.context import StageContext


def predict_elsewhere(
    run: Run, name: str, texts: JudgedTexts, settings: Settings
) -> list[Prediction]:
    """
    One system's predictions, made once and kept in the run's folder by the texts' fingerprint.

    In this process: give it the cores. Raises StudentError for a model that cannot be loaded.
    """
    directory, config = run
    made_from = directory.marker_digest(f"evaluate:{name}")
    key = digest([made_from, sorted(texts.rows)])[:16]
    path = directory.elsewhere(name, key)
    if not path.exists():
        from workers.stages.students import predict_examples

        context = StageContext(settings, directory, config, _silent, lambda: False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_records(path, predict_examples(context, name, texts.gold), Prediction)
    return list(read_records(path, Prediction))


def _silent(*_: object, **__: object) -> None:
    """Nobody follows."""
