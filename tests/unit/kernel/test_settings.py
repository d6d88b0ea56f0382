"""Settings: every mistake stops the start, names the variable and says the mend; no secret is ever shown."""

import os
from pathlib import Path

import pytest

from backstay.kernel.errors import ConfigurationError
from backstay.kernel.settings import Settings

SECRET = "planted-secret-0123456789-0123456789-abcdef"


@pytest.fixture(autouse=True)
def empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings of the machine, and a folder without backstay.toml."""
    for name in list(os.environ):
        if name.startswith(("BACKSTAY_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(**arguments: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**arguments)
    return str(caught.value)


def test_the_defaults_need_nothing() -> None:
    settings = Settings.load()
    assert (settings.host, settings.port, settings.data_dir) == ("127.0.0.1", 8080, Path(".backstay"))
    assert (settings.durability, settings.unknown_price, settings.lease_seconds) == ("strict", "refuse", 15.0)


def test_they_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().port = 1  # type: ignore[misc]


class TestSources:
    def test_argument_then_environment_then_file_then_toml_then_default(
        self, empty_place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (empty_place / "backstay.toml").write_text('port = 1\nhost = "toml"\nworkers = 7\nlog_level = "debug"\n')
        (empty_place / "port").write_text("2\n")
        (empty_place / "host").write_text("file\n")
        (empty_place / "workers").write_text("6")
        monkeypatch.setenv("BACKSTAY_PORT_FILE", str(empty_place / "port"))
        monkeypatch.setenv("BACKSTAY_HOST_FILE", str(empty_place / "host"))
        monkeypatch.setenv("BACKSTAY_WORKERS_FILE", str(empty_place / "workers"))
        monkeypatch.setenv("BACKSTAY_PORT", "3")
        monkeypatch.setenv("BACKSTAY_HOST", "environment")
        settings, origin = Settings.load_with_sources(port=4)
        assert (settings.port, origin["port"]) == (4, "argument")
        assert (settings.host, origin["host"]) == ("environment", "environment")
        assert (settings.workers, origin["workers"]) == (6, "file")
        assert (settings.log_level, origin["log_level"]) == ("debug", "backstay.toml")
        assert (settings.pool_size, origin["pool_size"]) == (12, "default")

    def test_a_secret_may_lie_in_a_file_and_loses_its_line_end(
        self, empty_place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (empty_place / "key").write_text(f"{SECRET}\n")
        monkeypatch.setenv("BACKSTAY_MASTER_KEY_FILE", str(empty_place / "key"))
        settings = Settings.load()
        assert settings.master_key is not None
        assert settings.master_key.get_secret_value() == SECRET

    def test_the_gateways_table_stands_in_the_file_or_as_json_in_a_variable(
        self, empty_place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert Settings.load().gateway == {}
        (empty_place / "backstay.toml").write_text('[gateway.routes.smart]\ntargets = ["a:m"]\n')
        assert Settings.load().gateway == {"routes": {"smart": {"targets": ["a:m"]}}}
        monkeypatch.setenv("BACKSTAY_GATEWAY", '{"routes": {}}')
        assert Settings.load().gateway == {"routes": {}}

    def test_every_table_of_the_file_can_be_json_in_a_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_LOCAL_MODELS", '{"minilm": "/models/minilm"}')
        monkeypatch.setenv("BACKSTAY_EMBED_BATCHES", '{"local:minilm": {"inputs": 7}}')
        settings = Settings.load()
        assert settings.local_models == {"minilm": "/models/minilm"}
        assert settings.embed_batches == {"local:minilm": {"inputs": 7}}

    def test_an_empty_variable_is_as_good_as_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_PORT", "")
        assert Settings.load().port == 8080

    def test_the_usual_variables_of_providers_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-abc")
        monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
        settings = Settings.load()
        assert settings.openai_api_key is not None
        assert settings.openai_base_url == "http://127.0.0.1:1/v1"


class TestRefused:
    def test_an_unknown_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_PROT", "1")
        message = refused()
        assert "BACKSTAY_PROT" in message
        assert "config show" in message

    def test_an_unknown_secret_file(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_MASTR_KEY_FILE", "x")
        assert "BACKSTAY_MASTR_KEY_FILE" in refused()

    def test_an_unknown_name_in_the_file(self, empty_place: Path) -> None:
        (empty_place / "backstay.toml").write_text("prot = 1")
        message = refused()
        assert "prot" in message
        assert "backstay.toml" in message

    @pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe", b"port == 1"])
    def test_a_file_that_is_no_toml(self, empty_place: Path, content: bytes) -> None:
        (empty_place / "backstay.toml").write_bytes(content)
        assert "backstay.toml" in refused()

    def test_a_file_that_is_a_folder(self, empty_place: Path) -> None:
        (empty_place / "backstay.toml").mkdir()
        assert "backstay.toml" in refused()

    @pytest.mark.parametrize("content", [None, b"\xff\xfe\xfd"])
    def test_a_secret_file_that_cannot_be_read(
        self, empty_place: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
    ) -> None:
        if content is not None:
            (empty_place / "key").write_bytes(content)
        monkeypatch.setenv("BACKSTAY_ADMIN_KEY_FILE", str(empty_place / "key"))
        message = refused()
        assert "BACKSTAY_ADMIN_KEY_FILE" in message
        assert str(empty_place / "key") in message

    @pytest.mark.parametrize(
        ("variable", "value", "mend"),
        [
            ("BACKSTAY_PORT", "65536", "65535"),
            ("BACKSTAY_PORT", "http", "integer"),
            ("BACKSTAY_POOL_SIZE", "1", "2"),
            ("BACKSTAY_DURABILITY", "sometimes", "strict"),
            ("BACKSTAY_LOG_LEVEL", "loud", "info"),
            ("BACKSTAY_LEASE_SECONDS", "0.1", "0.2"),
            ("BACKSTAY_LEASE_SECONDS", "nan", "0.2"),
            ("BACKSTAY_ADMIN_KEY", "short", "16 characters"),
            ("BACKSTAY_ADMIN_KEY", "schlüssel-von-mir-allein", "ASCII"),
            ("BACKSTAY_ADMIN_KEY", " starts-with-a-space", "space"),
            ("BACKSTAY_MASTER_KEY", "x" * 31, "openssl rand -hex 32"),
            ("BACKSTAY_GATEWAY", "routes", "JSON object"),
            ("BACKSTAY_GATEWAY", "[]", "valid dictionary"),
            ("BACKSTAY_LOCAL_MODELS", "minilm", "JSON object"),
            ("BACKSTAY_EMBED_BATCHES", '{"a:b": {"inputs": 0}}', "greater than or equal to 1"),
            ("BACKSTAY_UNKNOWN_PRICE", "cheap", "refuse"),
            ("BACKSTAY_UNKNOWN_PRICE", "-1", "between 0"),
            ("BACKSTAY_UNKNOWN_PRICE", "nan", "between 0"),
        ],
    )
    def test_a_wrong_value_names_its_variable_and_the_mend(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, mend: str
    ) -> None:
        monkeypatch.setenv(variable, value)
        message = refused()
        assert variable in message
        assert mend in message

    def test_all_wrong_values_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_PORT", "x")
        monkeypatch.setenv("BACKSTAY_WORKERS", "-1")
        message = refused()
        assert "BACKSTAY_PORT" in message
        assert "BACKSTAY_WORKERS" in message


class TestImpossibleTogether:
    def test_a_database_of_ones_own_without_a_master_key(self) -> None:
        message = refused(database_url="postgresql://u:p@h/d")
        assert "BACKSTAY_MASTER_KEY" in message
        assert "openssl rand -hex 32" in message

    @pytest.mark.parametrize("name", ["app_database_url", "system_database_url"])
    def test_one_of_the_two_role_urls_without_the_other(self, name: str) -> None:
        message = refused(**{name: "postgresql://h/d"})
        assert "BACKSTAY_APP_DATABASE_URL" in message
        assert "BACKSTAY_SYSTEM_DATABASE_URL" in message

    def test_no_message_invents_a_variable(self) -> None:
        assert "BACKSTAY_SETTINGS" not in refused(database_url="postgresql://u:p@h/d")
        assert "BACKSTAY_SETTINGS" not in refused(app_database_url="postgresql://u:p@h/d")

    def test_a_very_short_lease_for_many_workers(self) -> None:
        message = refused(lease_seconds=0.5, workers=9)
        assert "BACKSTAY_LEASE_SECONDS" in message


class TestSecrets:
    EVERY = {
        "admin_key": SECRET,
        "master_key": SECRET,
        "openai_api_key": SECRET,
        "database_url": f"postgresql://u:{SECRET}@h/d",
        "app_database_url": f"postgresql://u:{SECRET}@h/d",
        "system_database_url": f"postgresql://u:{SECRET}@h/d",
        "listen_database_url": f"postgresql://u:{SECRET}@h/d",
        "redis_url": f"redis://:{SECRET}@h",
    }

    def test_no_text_of_the_settings_shows_one(self) -> None:
        settings = Settings.load(**self.EVERY)
        for text in (repr(settings), str(settings), f"{settings}"):
            assert SECRET not in text

    @pytest.mark.parametrize("name", [*EVERY])
    def test_no_error_shows_one(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        variable = name.upper() if name.startswith("openai") else f"BACKSTAY_{name.upper()}"
        monkeypatch.setenv(variable, self.EVERY[name])
        monkeypatch.setenv("BACKSTAY_PORT", "x")
        assert SECRET not in refused()

    def test_a_key_that_is_too_short_is_not_echoed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_ADMIN_KEY", "tooshortkey")
        assert "tooshortkey" not in refused()

    def test_an_unknown_variable_does_not_echo_its_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKSTAY_ADMINKEY", SECRET)
        assert SECRET not in refused()
