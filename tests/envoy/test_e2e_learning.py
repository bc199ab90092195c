"""What answers teach, through the whole stack: observed by one worker, used by every one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ext_proc.cli import main
from tests.e2e_kit import POLICIES, Gateway, eventually
from tests.scrape_kit import parsed
from tests.stack_fixture import running_stack

pytestmark = pytest.mark.envoy

ANSWERS = 40
PROMPT = [{"role": "user", "content": "Count the sheep. " * 100}]
USAGE = {"input": 500, "output": 200}


def test_holds_are_sized_by_what_answers_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Forty answers teach both workers: explain says so, and the metric tells learned estimates from defaults."""
    with running_stack(tmp_path, POLICIES, "--workers", "2") as stack:
        gateway = Gateway(stack, "learning")
        (tmp_path / "set").mkdir()
        (tmp_path / "set" / "policy.yaml").write_text(POLICIES["policy.yaml"])
        explain = [
            *("explain", "--json", "--policies", str(tmp_path / "set"), "--redis", stack.redis_url),
            *("--header", f"x-tfy-metadata: {json.dumps(gateway.tags)}"),
            *("--body", json.dumps({"model": "gpt-4o-mini", "messages": PROMPT})),
        ]
        assert main(explain) == 0
        before = json.loads(capsys.readouterr().out)["ways"][0]
        for _ in range(ANSWERS):
            assert gateway.chat(usage=USAGE, messages=PROMPT).status_code == 200

        def learned_ratios() -> dict[str, float] | None:
            """By direction, once a hold of learned size has met its answer."""
            assert gateway.chat(usage=USAGE, messages=PROMPT).status_code == 200
            samples = parsed(gateway.admin.get("/metrics").content)
            name = "tollgate_estimate_ratio_sum"
            found = {
                dict(labels)["direction"]: value
                for (sample, labels), value in samples.items()
                if sample == name and dict(labels)["source"] == "learned" and value
            }
            return found if found.keys() == {"input", "output"} else None

        eventually(learned_ratios, "a hold whose size was learned")
        assert main(explain) == 0
        after = json.loads(capsys.readouterr().out)["ways"][0]
        gateway.close()

    assert not before["input"]["learned"]
    assert (before["output"]["learned"], before["output"]["most"]) == (False, 1_024)
    assert after["input"]["learned"]
    assert 3.2 < after["input"]["bytes_per_token"] <= 3.4  # 1,700 bytes ÷ 500 tokens, or a bucket less
    assert after["output"]["learned"]
    assert after["output"]["most"] == 256  # a quarter of the default: 200 are below the floor
