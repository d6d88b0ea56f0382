"""No log line carries a secret, wherever in the line it hides; no metric names a tenant."""

import io
import json
from typing import Any

import prometheus_client
import pytest
import structlog

from backstay.kernel import telemetry

PLANTED = {
    "provider key": "sk-proj-Abc123Def456Ghi789Jkl012",
    "anthropic key": "sk-ant-api03-Abc123Def456Ghi789",
    "our key": "bs_live_Abc12345_Abc123Def456Ghi789Jkl012Mno345Pq_0badc0de",
    "our test key": "bs_test_Abc12345_Abc123Def456Ghi789Jkl012Mno345Pq_0badc0de",
    "webhook secret": "whsec_Abc123Def456Ghi789",
    "token": "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
    "long password": "correct-horse-battery",
    "short password": "pw1",
    "password of a conninfo": "conninfo-password",
}
TEXTS = {
    "provider key": f"calling with {PLANTED['provider key']}",
    "anthropic key": f"x-api-key: {PLANTED['anthropic key']}",
    "our key": f"Authorization: Bearer {PLANTED['our key']}",
    "our test key": f"the key {PLANTED['our test key']}, was refused",
    "webhook secret": f"secret={PLANTED['webhook secret']}",
    "token": f"jwt {PLANTED['token']} expired",
    "long password": f"postgresql://ada:{PLANTED['long password']}@db:5432/x",
    "short password": f"redis://:{PLANTED['short password']}@cache",
    "password of a conninfo": f"host=db user=ada password={PLANTED['password of a conninfo']} dbname=x",
}


@pytest.fixture(params=["json", "pretty"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is logged, in the style for machines and the one for people."""
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    telemetry.configure_logging("debug", str(request.param))
    yield written
    structlog.reset_defaults()


@pytest.mark.parametrize("kind", sorted(PLANTED))
class TestAPlantedSecret:
    def test_is_removed_from_a_message_and_a_field(self, stream: io.StringIO, kind: str) -> None:
        telemetry.log("test").warning(TEXTS[kind], about=TEXTS[kind])
        self._logged(stream, kind)

    def test_is_removed_from_inside_lists_and_mappings(self, stream: io.StringIO, kind: str) -> None:
        telemetry.log("test").warning("nested", about={"a": [{"b": TEXTS[kind]}], "t": (TEXTS[kind],)})
        self._logged(stream, kind)

    def test_is_removed_from_an_exception(self, stream: io.StringIO, kind: str) -> None:
        def caller(argument: str) -> None:
            raise ValueError(argument)

        try:
            caller(TEXTS[kind])
        except ValueError as error:
            telemetry.log("test").error("failed", exc_info=error, about=error)
        self._logged(stream, kind)
        assert "ValueError" in stream.getvalue()

    def test_is_removed_from_what_is_bound_to_the_request(self, stream: io.StringIO, kind: str) -> None:
        with structlog.contextvars.bound_contextvars(given=TEXTS[kind]):
            telemetry.log("test").info("hello")
        self._logged(stream, kind)

    def _logged(self, stream: io.StringIO, kind: str) -> None:
        assert stream.getvalue(), "nothing was logged"
        assert PLANTED[kind] not in stream.getvalue()


def test_variables_of_a_failing_function_are_not_logged(stream: io.StringIO) -> None:
    def handler() -> None:
        admin_password = "kept-in-a-variable"
        raise ValueError(len(admin_password))

    try:
        handler()
    except ValueError as error:
        telemetry.log("test").error("failed", exc_info=error)
    assert "kept-in-a-variable" not in stream.getvalue().replace('admin_password = "kept-in-a-variable"', "")


def test_ordinary_text_stays_as_it_is() -> None:
    for text in (
        "task-1 done",
        "https://docs.example/path:8080/x",
        "the bs_ prefix",
        "a:b@c",
        "risk-averse",
        "password: none",
    ):
        assert telemetry.scrub(text) == text


def test_a_json_line_stays_json(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stderr", written)
    telemetry.configure_logging("info", "json")
    telemetry.log("jobs").info('say "hi"\nthere', key=TEXTS["our key"])
    structlog.reset_defaults()
    line = json.loads(written.getvalue())
    assert (line["room"], line["event"], line["level"]) == ("jobs", 'say "hi"\nthere', "info")


class TestMetrics:
    @pytest.fixture
    def families(self) -> list[prometheus_client.Metric]:
        import importlib
        import pkgutil

        import backstay

        for module in pkgutil.walk_packages(backstay.__path__, "backstay."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        return list(telemetry.registry.collect())

    def test_every_name_starts_with_ours(self, families: list[prometheus_client.Metric]) -> None:
        assert len(families) > 3
        assert [family.name for family in families if not family.name.startswith("backstay_")] == []

    def test_every_metric_says_what_it_is(self, families: list[prometheus_client.Metric]) -> None:
        assert [family.name for family in families if not family.documentation.endswith(".")] == []

    def test_no_label_grows_with_tenants_or_users(self, families: list[prometheus_client.Metric]) -> None:
        forbidden = {
            "tenant",
            "tenant_id",
            "user",
            "user_id",
            "end_user",
            "principal",
            "key",
            "key_id",
            "run",
            "path",
            "url",
        }
        labels = {
            (collector._name, label)  # type: ignore[attr-defined]
            for collector in telemetry.registry._collector_to_names
            for label in collector._labelnames  # type: ignore[attr-defined]
        }
        assert labels
        assert [pair for pair in labels if pair[1] in forbidden] == []
