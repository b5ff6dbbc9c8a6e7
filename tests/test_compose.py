"""docker-compose.yml and the scripts of the images, as far as no container is needed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SCRIPTS = [*sorted((ROOT / "server" / "docker").iterdir()), *(ROOT / "worker" / "docker").iterdir()]


def test_only_the_gateway_is_published_and_only_on_loopback() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name, service in SERVICES.items():
        if name == "gateway":
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
            assert service["networks"] == ["inside", "outside"]
        else:
            assert "ports" not in service
            assert service["networks"] == ["inside"]


def test_secrets_are_writable_where_they_are_made_and_nowhere_else() -> None:
    for name, service in SERVICES.items():
        secrets = [v for v in service["volumes"] if "/run/farspan/" in v]
        assert all(v.endswith(":ro") for v in secrets) == (name != "secrets")
    assert SERVICES["worker-1"]["volumes"] == ["ray-secrets:/run/farspan/ray:ro"]


def test_every_lasting_service_has_a_health_check_and_time_to_stop() -> None:
    scripts = {script.name for script in SCRIPTS}
    for name, service in SERVICES.items():
        assert service["command"] in scripts
        if name != "secrets":
            assert service["stop_grace_period"]
            assert service["healthcheck"]["test"][1] in scripts
    assert SERVICES["gpu-worker"]["profiles"] == ["gpu"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_shell_that_says_what_it_does(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert re.match(r"#!/bin/sh\n# [A-Z]", script.read_text())
    subprocess.run(["sh", "-n", script], check=True)


@pytest.mark.parametrize("part", ["server", "worker"])
def test_images_run_as_a_user_and_hold_no_address_of_ours(part: str) -> None:
    text = (ROOT / part / "Dockerfile").read_text()
    assert re.search(r"^USER farspan$", text, re.M)
    assert "index-url" not in text and "pip.conf" not in text
