"""The workspace's files, over the nested server's own routes."""

from __future__ import annotations

from typing import Any

import httpx

from loopnest_openhands.legacy.forward import Nested


async def list_files(nested: Nested, path: str | None) -> list[str]:
    """Return the files below ``path``.

    Raises:
        ValueError: the conversation is not running.
        httpx.HTTPError: the nested server did not answer, or refused.
    """
    response = await nested.request("GET", "list-files", params={"path": path} if path else {})
    files: list[str] = response.raise_for_status().json()
    return files


async def select_file(nested: Nested, file: str) -> tuple[str | None, str | None]:
    """Return the text of a file and None, or None and what is wrong, as the host expects it."""
    response = await nested.request("GET", "select-file", params={"file": file})
    if response.status_code == httpx.codes.UNSUPPORTED_MEDIA_TYPE:
        return None, f"BINARY_FILE:{file}"
    answer = _object(response)
    if response.is_success:
        return answer.get("code"), None
    return None, str(answer.get("error", f"the nested server answered {response.status_code}"))


async def upload_files(nested: Nested, files: list[tuple[str, bytes]]) -> tuple[list[str], list[dict[str, str]]]:
    """Store files in the workspace; return which were, and which were not and why."""
    parts = [("files", (name, content)) for name, content in files]
    answer = _object((await nested.request("POST", "upload-files", files=parts)).raise_for_status())
    return answer.get("uploaded_files", []), answer.get("skipped_files", [])


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}
