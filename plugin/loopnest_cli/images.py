"""``loopnest image build | pull | list``: the images of nested servers, for strategies that have some."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from loopnest.selection import installed
from loopnest.settings import Configuration
from loopnest_cli.options import AsJson, Options, new_app
from loopnest_cli.output import Column, age, print_json, print_table
from loopnest_cli.progress import shown
from loopnest_cli.runner import animated, run
from loopnest_docker.engine import Engine
from loopnest_docker.image import ImageStore
from loopnest_docker.settings import DockerSettings

app = new_app()
image_app = new_app(no_args_is_help=True, help="Build, pull or list the images of nested servers ([loopnest.docker]).")
app.add_typer(image_app, name="image")


@image_app.command()
def build(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Build the configured dialect's image from its packaged Dockerfile ([loopnest.docker.build]).

    --json: {"image"}
    """
    _fetch(ctx, lambda images, progress: images.build(progress), as_json)


@image_app.command()
def pull(
    ctx: typer.Context,
    image: Annotated[str | None, typer.Argument(help="Instead of the configured one.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Pull an image from its registry.

    --json: {"image"}
    """
    _fetch(ctx, lambda images, progress: images.pull(image, progress), as_json)


@image_app.command("list")
def list_images(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the images on the engine that contain a nested server.

    --json: {"images": [{"image", "id", "dialect", "version", "size", "created_at", "configured"}]}
    """
    images = run(_list(ctx))
    if as_json:
        print_json({"images": images})
    elif images:
        columns = [Column("image"), *map(Column, ("dialect", "version", "size", "age", "configured"))]
        print_table(columns, [_row(image) for image in images])
    else:
        typer.echo("No images. 'loopnest image build' builds one.", err=True)


@contextlib.asynccontextmanager
async def image_store(options: Options) -> AsyncIterator[ImageStore]:
    """Open the store of the configured engine's images."""
    configuration = Configuration.read(options.config)
    configuration.core(installed().names)  # refuses unknown keys before anything is asked
    settings = configuration.plugin("docker", DockerSettings)
    engine = Engine(settings.engine)
    try:
        yield ImageStore(engine, settings)
    finally:
        await engine.aclose()


def _fetch(ctx: typer.Context, work: Callable[[ImageStore, Any], Any], as_json: bool) -> None:
    async def fetch() -> str:
        async with image_store(ctx.obj) as images:
            with shown("image", animated=animated(ctx)) as progress:
                name: str = await work(images, progress)
                return name

    image = run(fetch())
    print_json({"image": image}) if as_json else typer.echo(image)


async def _list(ctx: typer.Context) -> list[dict[str, Any]]:
    async with image_store(ctx.obj) as images:
        found = await images.list()
        return [_described(it, tag, images.default) for it in found for tag in it.get("RepoTags") or ["<none>"]]


def _described(image: dict[str, Any], tag: str, default: str) -> dict[str, Any]:
    labels = image.get("Labels") or {}
    return {
        "image": tag,
        "id": image["Id"],
        "dialect": labels.get("dev.loopnest.dialect"),
        "version": labels.get("dev.loopnest.nested-version"),
        "size": image["Size"],
        "created_at": datetime.fromtimestamp(image["Created"], timezone.utc).isoformat(),
        "configured": tag == default,
    }


def _row(image: dict[str, Any]) -> list[str | None]:
    size = f"{image['size'] / 1_000_000:.0f} MB"
    since = age(datetime.fromisoformat(image["created_at"]))
    name = image["image"] if not image["image"].startswith("<none>") else image["id"][:19]
    return [name, image["dialect"], image["version"], size, since, "yes" if image["configured"] else None]
