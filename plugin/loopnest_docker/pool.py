"""Containers booted ahead of demand, and how a start gets one.

A *slot* is a container whose nested server runs and has no conversation; it is like any other loop's container, with a
nonce and so a key of its own, and with nothing of any user. When its server is up, the slot gets a *token*: a second
container that is never started. A claim renames the token to the one name that a taken token has, which the engine lets
exactly one of any number of claimants do, on any number of hosts; the winner renames the slot to what it is for now. A
slot without a token is still booting, or was left by a host that died in between, and goes after a while.

Two simpler schemes are not safe. Two claimants that rename one slot to different names both succeed. Two claimants
that remove one token can both succeed: about once in ten thousand claims, the engine also confirms the removal by the
one that found the token just before it was gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from loopnest import StartLoop
from loopnest_docker import naming
from loopnest_docker.container import ContainerSpec, new_spec
from loopnest_docker.engine import EngineConflict, NotOnEngine
from loopnest_docker.facts import Facts, Slot
from loopnest_docker.image import Progress
from loopnest_docker.parts import Parts
from loopnest_nested import session_keys

#: The request of slots, which have no conversation yet. Plugins see it in ``configure_container``.
NOBODY_YET: Final = StartLoop(conversation_id="pool")


async def specify(parts: Parts, request: StartLoop, owner: str, progress: Progress | None = None) -> ContainerSpec:
    """Return the container that settings, request and plugins ask for, without the labels of one container.

    Raises:
        LoopFailed: its image can't be had.
    """
    wanted = request.image or parts.images.default
    image = await (parts.images.ensure(wanted, progress) if progress else parts.images.ensure(wanted))
    network = await parts.network.ensure()
    spec = new_spec(parts.settings, parts.dialect, request, image=image, network=network, owner=owner)
    await parts.context.hooks.configure_container(request=request, spec=spec)
    spec.labels |= {
        naming.SCHEMA: "1",
        naming.NAMESPACE: parts.context.namespace,
        naming.DIALECT: parts.dialect.name,
        naming.KEY: session_keys.fingerprint(parts.context.secret),
        naming.SPEC: spec.digest(parts.context.secret),
    }
    return spec


def why_not_pooled(parts: Parts, request: StartLoop) -> str | None:
    """Say what keeps a request from taking a slot; None where nothing does.

    Facts that are fixed when a container is created and belong to one request do. Others that differ (image, mounts,
    limits) show in the digest of the specification.
    """
    reasons = {
        "no pool": parts.settings.pool.size == 0,
        "environment": bool(request.environment),
        "bare": request.conversation is None,
        "notes": bool(request.notes),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


async def claim(parts: Parts, name: naming.LoopName, spec: ContainerSpec) -> Facts | None:
    """Give a slot that is like ``spec`` the name of a loop, and return it; None where there is none.

    Raises:
        EngineConflict: the loop has a container by now; the slot is kept for the next.
    """
    slots = {slot.nonce: slot for slot in await parts.inventory.slots("slot")}
    for token in await parts.inventory.slots("token"):
        slot = slots.get(token.nonce)
        usable = slot and fits(slot, spec) and slot.container.state in {"running", "paused"}
        if slot and usable and await take_token(parts, token):
            spent = asyncio.ensure_future(remove(parts, token.container.id))
            try:
                if await _rename(parts, slot, name):
                    return slot.container
            finally:
                await asyncio.gather(spent, return_exceptions=True)  # else the filler removes it
    return None


def fits(slot: Slot, spec: ContainerSpec) -> bool:
    """Whether the slot was made from such a specification, under the secret of this host."""
    return all(slot.container.labels.get(label) == spec.labels[label] for label in (naming.SPEC, naming.KEY))


async def give_token(parts: Parts, slot: Slot) -> dict[str, str]:
    """Say that a slot may be claimed; return the token as the engine made it."""
    kept = (naming.NAMESPACE, naming.NONCE, naming.SPEC, naming.KEY)
    labels = {key: slot.container.labels[key] for key in kept} | {naming.ROLE: "token"}
    image = slot.container.labels[naming.IMAGE]  # any would do
    body = {"Image": image, "Cmd": ["token"], "Labels": labels, "HostConfig": {"NetworkMode": "none"}}
    name = naming.token_name(parts.context.namespace, slot.nonce)
    made: dict[str, str] = await parts.engine.call("create_container_from_config", body, name)
    parts.inventory.touch(made["Id"])
    return made


async def take_token(parts: Parts, token: Slot) -> bool:
    """Take a token, which is then to be removed: only one of all who try succeeds."""
    taken = naming.taken_name(parts.context.namespace, token.nonce)
    try:
        await parts.engine.call("rename", token.container.id, taken)
    except (NotOnEngine, EngineConflict):
        return False
    finally:
        parts.inventory.touch(token.container.id)
    return True


async def remove(parts: Parts, container_id: str) -> None:
    """Remove a slot or a token that must not be claimed any more; one that is gone is no error."""
    with contextlib.suppress(NotOnEngine, EngineConflict):
        await parts.engine.call("remove_container", container_id, force=True, v=True)
    parts.inventory.touch(container_id)


async def _rename(parts: Parts, slot: Slot, name: naming.LoopName) -> bool:
    try:
        await parts.engine.call("rename", slot.container.id, str(name))
    except NotOnEngine:
        return False
    except EngineConflict:
        await give_token(parts, slot)
        raise
    finally:
        parts.inventory.touch(slot.container.id)
    return True
