"""`resnet-keras tune`: a search over depth, head and fine-tuning on a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.table import Table
from typer import Option, echo

from resnet_keras.cli.common import (
    LIGHT,
    PICTURES,
    RUN,
    BatchSize,
    Flips,
    OnBad,
    PartShare,
    PrecisionOption,
    Source,
    import_tensorflow,
    print_table,
)
from resnet_keras.cli.finetune import default_name

SEARCH, BUDGET = "Search", "Budget"
SHOWN = 10


def tune(
    source: Source,
    weights: Annotated[
        list[str] | None,
        Option(
            help='"imagenet", a name in `weights list`, a file, a run folder, or "none"; may be '
            "given more than once.  \\[default: imagenet]",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    depths: Annotated[
        str, Option(help='Those of "imagenet" and "none".', rich_help_panel=SEARCH)
    ] = "18,34,50",
    space: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=VALUE[,VALUE...]",
            help="What is fixed, or tried, of a hyperparameter, such as stage=3,4; may be given "
            "more than once.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    max_trials: Annotated[
        int, Option(min=1, help="Heads that are tried.", rich_help_panel=SEARCH)
    ] = 100,
    epochs: Annotated[int, Option(min=1, help="Epochs of a head.", rich_help_panel=SEARCH)] = 20,
    algorithm: Annotated[
        Literal["random", "hyperband", "bayesian"], Option(rich_help_panel=SEARCH)
    ] = "random",
    objective: Annotated[
        Literal["accuracy", "balanced_accuracy", "f1", "loss"],
        Option(help="Of the validation part.", rich_help_panel=SEARCH),
    ] = "accuracy",
    finalists: Annotated[
        int, Option(min=1, help="Heads that are trained again.", rich_help_panel=SEARCH)
    ] = 8,
    repeats: Annotated[
        int, Option(min=0, help="With so many other seeds and splits.", rich_help_panel=SEARCH)
    ] = 5,
    fine_tunes: Annotated[
        int, Option(min=0, help="Fine-tunings of the best heads.", rich_help_panel=SEARCH)
    ] = 6,
    fine_epochs: Annotated[
        int, Option(min=2, help="Epochs of these.", rich_help_panel=SEARCH)
    ] = 10,
    fine_repeats: Annotated[
        int,
        Option(min=0, help="Of the two best, as the repeats of heads.", rich_help_panel=SEARCH),
    ] = 2,
    max_latency_ms: Annotated[
        float | None,
        Option(min=0.0, help="For one picture on this machine.", rich_help_panel=BUDGET),
    ] = None,
    max_params: Annotated[
        int | None, Option(min=1, help="Weights of the network.", rich_help_panel=BUDGET)
    ] = None,
    image_size: Annotated[
        int | None,
        Option(
            min=32,
            help="In pixels.  \\[default: that of the first weights]",
            rich_help_panel=PICTURES,
        ),
    ] = None,
    batch_size: BatchSize = 32,
    validation: PartShare = 0.15,
    test: PartShare = 0.15,
    on_bad_image: OnBad = "error",
    flip: Annotated[
        Flips, Option(help="Flips that leave the class as it is.", rich_help_panel=PICTURES)
    ] = "horizontal",
    augment: Annotated[
        Literal["flips", "light"],
        Option(help="flips alone, or small changes as well.", rich_help_panel=PICTURES),
    ] = "flips",
    run_dir: Annotated[
        Path | None,
        Option(help="Folder of the search.  \\[default: runs/NAME-search]", rich_help_panel=RUN),
    ] = None,
    cache_dir: Annotated[
        Path | None,
        Option(help="Keeps the features for other searches there.", rich_help_panel=RUN),
    ] = None,
    precision: PrecisionOption = "auto",
    seed: Annotated[int, Option(min=0, rich_help_panel=RUN)] = 0,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the search.", rich_help_panel=RUN)
    ] = False,
    force: Annotated[
        bool, Option("--force", help="Delete the search in the folder first.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Searches depth, head and fine-tuning: heads on cached features first, then the best few.

    Example: resnet-keras tune photos/ --max-latency-ms 30 --space pooling=avg --space stage=3,4
    """
    named = dict(_named(text) for text in space or [])
    numbers = _depths(depths)
    import_tensorflow()
    from resnet_keras import Augmentation, Recipe, load_images
    from resnet_keras import tune as search
    from resnet_keras.weights import read_weights, resolve

    sources = [None if name == "none" else name for name in weights or ["imagenet"]]
    loading: dict[str, Any] = {
        "batch_size": batch_size,
        "validation": validation,
        "test": test,
        "seed": seed,
        "on_bad_image": on_bad_image,
    }
    first = sources[0]
    recipe = read_weights(resolve(first, numbers[0])).record.recipe if first else Recipe()
    data = load_images(source, recipe=recipe, image_size=image_size, **loading)
    echo(str(data.report))
    folder = run_dir or Path("runs") / f"{default_name(source)}-search"
    found = search(
        data,
        run_dir=folder,
        depths=numbers,
        weights=sources,
        space=named,
        max_trials=max_trials,
        epochs=epochs,
        algorithm=algorithm,
        objective=objective,
        finalists=finalists,
        repeats=repeats,
        fine_tunes=fine_tunes,
        fine_epochs=fine_epochs,
        fine_repeats=fine_repeats,
        max_latency_ms=max_latency_ms,
        max_params=max_params,
        augmentation=Augmentation(flip, **(LIGHT if augment == "light" else {})),
        precision=precision,
        cache_dir=cache_dir,
        source_options={"source": source, **loading, "augment": augment},
        seed=seed,
        resume=resume,
        force=force,
    )
    if found:
        _show(found)


def _depths(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(
            f"`--depths` must be numbers such as 18,34,50. Received: {text!r}"
        ) from None


def _named(text: str) -> tuple[str, list[Any]]:
    """Returns the name and the values of `NAME=VALUE,VALUE`; numbers and truth values by YAML."""
    import yaml

    name, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"`--space` must be NAME=VALUE or NAME=VALUE,VALUE. Received: {text!r}")
    return name.replace("-", "_"), [_value(yaml.safe_load(value)) for value in values.split(",")]


def _value(value: Any) -> Any:
    """Returns a number that YAML 1.1 takes for text, such as 1e-3."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _show(found: Any) -> None:
    """Prints the best trials, and where everything is."""
    from resnet_keras.tuning.trials import best_first

    objective = found.options["monitor"]
    table = Table(title=f"The best by {objective}")
    for column in ("trial", objective, "repeats", "ms", "parameters", "what"):
        table.add_column(column, justify="left" if column in ("trial", "what") else "right")
    for result in best_first(found.results, objective)[:SHOWN]:
        table.add_row(*_row(result))
    print_table(table)
    failed = sum(result.status == "FAILED" for result in found.results)
    echo(f"trials       {len(found.results)}, of which {failed} failed")
    if found.test:
        echo(f"test         {objective} {getattr(found.test, objective):.4f} (the winner, once)")
    for name, file in (
        ("report", "report.html"), ("winner", "winner/model.keras"), ("options", "best.yaml"),
    ):  # fmt: skip
        echo(f"{name:<13}{found.run_dir / file}")
    echo(f"repeat it    resnet-keras finetune --config {found.run_dir / 'best.yaml'}")


def _row(result: Any) -> Sequence[str]:
    error = result.standard_error
    merit = "" if error is None else f"{result.merit:.4f} ± {error:.4f}"
    values = result.values
    units = (
        f"{values['hidden_layers']} x {values['units']}" if values["hidden_layers"] else "linear"
    )
    what = [f"{values['backbone']} to stage {values['stage']}", values["pooling"], units]
    what += [f"unfrozen {values['unfrozen']}"] if "unfrozen" in values else []
    return (
        f"{result.tier} {result.name}",
        f"{result.score:.4f}",
        merit,
        "" if result.latency_ms is None else f"{result.latency_ms:.1f}",
        "" if result.params is None else f"{result.params:,}",
        ", ".join([*what, values["optimizer"]]),
    )
