"""Commands that put an encoder, or vectors, into the shape that others take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from polymnia.cli.words import AfterTask, MovedData, RunFolder

app = typer.Typer(help="Put a run's encoder into the shape that others take.", no_args_is_help=True)
OutFolder = Annotated[Path, typer.Argument(help="a new folder, which pip installs")]
NewFolder = Annotated[Path, typer.Argument(help="a new folder")]


@app.command("hf")
def export_hf(run: RunFolder, out: NewFolder, task: AfterTask = None, data: MovedData = None) -> None:
    """Write a run's encoder as safetensors, settings and a model card, loadable without training code."""
    from polymnia.export.hf import export_hf as export

    for line in export(run, out, task, data):
        typer.echo(line)


@app.command("onnx")
def export_onnx(run: RunFolder, out: NewFolder, task: AfterTask = None, data: MovedData = None) -> None:
    """Write the towers of a run as graphs of ONNX, front ends inside, checked with onnxruntime."""
    from polymnia.export.onnx import export_onnx as export

    for line in export(run, out, task, data):
        typer.echo(line)


@app.command("sentence-transformers")
def export_sentence(
    run: RunFolder,
    out: NewFolder,
    task: AfterTask = None,
    data: MovedData = None,
    plain: Annotated[
        bool | None,
        typer.Option(
            "--plain/--whole",
            help="texts alone, without polymnia (default where it can be); or every modality, through polymnia",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a folder that SentenceTransformer loads."""
    from polymnia.export.sentence import export_sentence as export

    for line in export(run, out, task, data, None if plain is None else "plain" if plain else "whole"):
        typer.echo(line)


@app.command("hear")
def export_hear(
    run: RunFolder,
    out: OutFolder,
    task: AfterTask = None,
    timestamps: Annotated[
        Literal["frames", "sliding"] | None,
        typer.Option(help="the tower's own features over time (default where it has them), or windows of a second"),
    ] = None,
    data: MovedData = None,
) -> None:
    """Write a module with the common API of HEAR 2021 around the audio tower of a run."""
    from polymnia.export.modules import export_hear as export

    name = export(run, out, task, timestamps, data)
    typer.echo(f"{name}: pip install {out.resolve()}; then polymnia export check {name}")


@app.command("mteb")
def export_mteb(run: RunFolder, out: OutFolder, task: AfterTask = None, data: MovedData = None) -> None:
    """Write a module that gives a run's encoder to MTEB (texts, sounds: MAEB, pictures: MIEB)."""
    from polymnia.export.modules import export_mteb as export

    name = export(run, out, task, data)
    typer.echo(f"{name}: pip install {out.resolve()}; then mteb.evaluate({name}.load_model(), tasks)")


@app.command("peft")
def export_peft(run: RunFolder, out: NewFolder, task: AfterTask = None, data: MovedData = None) -> None:
    """Write the low-rank updates of a run (method lora) as adapters of PEFT, a folder a modality."""
    from polymnia.export.peft import export_peft as export

    for folder in export(run, out, task, data):
        typer.echo(folder)


@app.command("vectors")
def export_vectors(
    source: Annotated[str, typer.Argument(help="a folder that `polymnia embed` wrote, or an index")],
    out: Annotated[Path, typer.Argument(help="a new file that ends in .npy, .parquet or .faiss")],
    encoder: Annotated[
        str, typer.Option(help="the signature of the encoder, where an index has rows of several")
    ] = "",
    modality: Annotated[Literal["audio", "image", "text"] | None, typer.Option(help="rows of this one alone")] = None,
    whole: Annotated[bool, typer.Option(help="without the rows of windows")] = False,
    where: Annotated[str | None, typer.Option(help="a filter, as `polymnia search` takes it; of an index")] = None,
) -> None:
    """Write vectors as a file that other tools open, with which row is what beside them."""
    from polymnia.export.vectors import Wanted
    from polymnia.export.vectors import export_vectors as export

    for line in export(source, out, Wanted(encoder, modality, whole, where)):
        typer.echo(line)


@app.command("check")
def export_check(
    module: Annotated[str, typer.Argument(help="the name of an importable module, or the folder of an export")],
    model: Annotated[str, typer.Option(help="weights to load instead of the module's own")] = "",
) -> None:
    """Do to a HEAR module what HEAR's validator does. Exit code 1: it has an error."""
    from polymnia.export.validate import find_module, validate

    found = find_module(module)
    problems = validate(found, model)
    for problem in problems:
        typer.echo(problem)
    if any(p.level == "error" for p in problems):
        raise typer.Exit(1)
    typer.echo(f"{found.__name__} keeps the common API of HEAR 2021")
