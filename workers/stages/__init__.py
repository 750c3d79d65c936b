"""The stages of a run as plain functions; each reads and writes the run's folder."""

from workers.graph import Stage
from workers.stages.context import StageContext


def run_stage(context: StageContext, stage: Stage) -> float | None:
    """
    Do one stage; heavy libraries are imported by the stage that needs them.

    Returns None when the stage is finished, else the seconds after which to call it again. Raises
    JobCancelled, JobPaused, or another FinstillError with the reason of the failure.
    """
    match stage.verb:
        case "prepare":
            from workers.stages.data import prepare_data

            prepare_data(context)
        case "probe":
            from workers.stages.labels import probe_teachers

            probe_teachers(context)
        case "batch":
            from workers.stages.batches import advance_all_batches

            return advance_all_batches(context)
        case "label":
            from workers.stages.labels import label_all_chunks

            label_all_chunks(context)
        case "collect":
            from workers.stages.pairs import collect_pairs

            collect_pairs(context)
        case "train":
            from workers.stages.students import train_system

            train_system(context, stage.system)
        case "evaluate":
            from workers.stages.speed import measure_speed
            from workers.stages.students import evaluate_system_on_test

            evaluate_system_on_test(context, stage.system)
            measure_speed(context, stage.system)
        case "report":
            from workers.stages.report import write_report

            write_report(context)
        case _:
            raise AssertionError(f"no stage {stage.name}")
    return None
