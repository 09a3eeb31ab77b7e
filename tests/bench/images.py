"""An image that upstream's manager can start: our image of the legacy server, with the paths that upstream expects."""

from __future__ import annotations

import io

from bench.stage import UPSTREAM, Stage

#: Our image of the legacy server.
V0 = "loopnest/openhands-v0:1.6.0"
#: Upstream starts ``micromamba run -n openhands poetry run python ...``; the editor is only looked at.
_DOCKERFILE = f"""
FROM {V0}
USER root
RUN mkdir -p /openhands/code /openhands/micromamba/bin /openhands/.openvscode-server/bin \
 && printf '#!/bin/sh\\nshift 6\\nexec /opt/openhands/bin/python "$@"\\n' > /openhands/micromamba/bin/micromamba \
 && cd /openhands/.openvscode-server/bin \
 && printf '#!/bin/sh\\necho started at 1\\nexec sleep infinity\\n' > openvscode-server \
 && chmod +x openvscode-server /openhands/micromamba/bin/micromamba
ENV HOME=/root FILE_STORE_PATH=/root/.openhands
LABEL dev.loopnest.dialect="" dev.loopnest.build=""
"""


def upstream_image(stage: Stage) -> str | None:
    """Return the image, built from our own of the legacy server; None where that one is not there."""
    if not stage.engine.images(V0):
        stage.remark(f"The engine has no image {V0}: upstream's start is left out. 'loopnest image build' makes it.")
        return None
    lines = list(stage.engine.build(fileobj=io.BytesIO(_DOCKERFILE.encode()), tag=UPSTREAM, rm=True, decode=True))
    if "error" in lines[-1]:
        raise RuntimeError(lines[-1]["error"])
    return UPSTREAM
