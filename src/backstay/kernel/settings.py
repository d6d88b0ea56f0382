"""One frozen object with every setting, read from BACKSTAY_* variables, secret files and backstay.toml.

Precedence: arguments, environment, `BACKSTAY_…_FILE`, `backstay.toml`, defaults. An unknown BACKSTAY_* name
stops the start: a misspelt setting that is silently ignored costs a day.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError, FieldError

PREFIX = "BACKSTAY_"


class Settings(BaseSettings):
    """Effective settings. Build it with `Settings.load()`, which reports mistakes as ConfigurationError."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", populate_by_name=True)
    sources: ClassVar[tuple[str, ...]] = ("environment", "file", "backstay.toml", "default")

    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8080, ge=0, le=65535, description="Port the server listens on; 0 picks a free one.")
    data_dir: Path = Field(Path(".backstay"), description="Where the embedded database and dev secrets lie.")
    database_url: str | None = Field(None, repr=False, description="Postgres to use instead of the embedded one.")
    app_database_url: str | None = Field(None, repr=False, description="URL that logs in as backstay_app (pgbouncer).")
    system_database_url: str | None = Field(
        None, repr=False, description="URL that logs in as backstay_system (pgbouncer)."
    )
    listen_database_url: str | None = Field(
        None, repr=False, description="Direct URL for the one LISTEN connection a process keeps (with pgbouncer)."
    )
    redis_url: str | None = Field(None, repr=False, description="Redis for cache and limits; optional.")
    cache_embedder: str | None = Field(
        None, description="Model that finds answers of near requests, such as openai:text-embedding-3-small."
    )
    cache_memory_bytes: int = Field(
        16 * 1024 * 1024, ge=0, description="Memory for copies of cached values, per process; 0 keeps none."
    )
    admin_key: SecretStr | None = Field(None, description="Presets the first admin key, 16 characters or more.")
    master_key: SecretStr | None = Field(
        None, description="Encrypts secrets at rest, 32 characters or more; made on first boot when embedded."
    )
    durability: Literal["strict", "relaxed"] = Field(
        "strict", description="Settle model calls before the answer's end leaves, or just after."
    )
    unknown_price: str = Field(
        "refuse", description="`refuse`, or USD per million tokens charged when a model has no known price."
    )
    reserve: Literal["strict", "expected"] = Field(
        "strict",
        description="What a streamed call holds of budgets: the most it may cost, or what such calls cost lately.",
    )
    pool_size: int = Field(12, ge=2, le=500, description="Database connections per process and role.")
    statement_timeout: float = Field(30.0, gt=0, description="Seconds a statement may run.")
    prepared_statements: bool = Field(True, description="Off for poolers that cannot keep them.")
    lease_seconds: float = Field(15.0, gt=0.2, description="A process silent for longer counts as dead.")
    workers: int = Field(1, ge=0, le=64, description="Worker processes that `backstay up` runs.")
    worker_concurrency: int = Field(32, ge=1, le=1000, description="Jobs a worker process runs at once.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Largest request body accepted.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level logged.")
    log_format: Literal["auto", "json", "pretty"] = Field("auto", description="`auto`: pretty in a terminal.")
    slow_query_seconds: float = Field(0.5, gt=0, description="Queries slower than this are logged by name.")
    default_max_tokens: int = Field(4096, ge=1, description="Output tokens reserved for a call that names no maximum.")
    private_networks: str = Field(
        "",
        description="Networks that tenants' base URLs and `http` jobs may reach beside public addresses: 10.0.0.0/8, …",
    )
    provider_proxy: str | None = Field(
        None, repr=False, description="HTTP proxy for calls to the operator's providers, such as http://proxy:3128."
    )
    keep_runs_days: int = Field(90, ge=0, description="Days that ended runs are kept, with steps; 0: for ever.")
    keep_calls_days: int = Field(
        400, ge=0, description="Days that ended model calls are kept, with their lines in the ledger; 0: for ever."
    )
    keep_results_days: int = Field(
        30, ge=0, description="Days that results and files of built-in jobs are kept; 0: for ever."
    )
    smtp_url: SecretStr | None = Field(
        None, description="Server that `email` jobs hand mail to, such as smtp://user:password@host:587 or smtps://…"
    )
    email_from: str | None = Field(None, description="Who that mail comes from: `The shop <shop@example.com>`.")
    openai_api_key: SecretStr | None = Field(None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(None, validation_alias="OPENAI_BASE_URL")
    anthropic_api_key: SecretStr | None = Field(None, validation_alias="ANTHROPIC_API_KEY")
    anthropic_base_url: str | None = Field(None, validation_alias="ANTHROPIC_BASE_URL")
    gemini_api_key: SecretStr | None = Field(None, validation_alias="GEMINI_API_KEY")
    gemini_base_url: str | None = Field(None, validation_alias="GOOGLE_GEMINI_BASE_URL")
    azure_openai_api_key: SecretStr | None = Field(None, validation_alias="AZURE_OPENAI_API_KEY")
    azure_openai_endpoint: str | None = Field(None, validation_alias="AZURE_OPENAI_ENDPOINT")
    azure_openai_api_version: str | None = Field(None, validation_alias="AZURE_OPENAI_API_VERSION")
    mistral_api_key: SecretStr | None = Field(None, validation_alias="MISTRAL_API_KEY")
    groq_api_key: SecretStr | None = Field(None, validation_alias="GROQ_API_KEY")
    together_api_key: SecretStr | None = Field(None, validation_alias="TOGETHER_API_KEY")
    openrouter_api_key: SecretStr | None = Field(None, validation_alias="OPENROUTER_API_KEY")
    deepseek_api_key: SecretStr | None = Field(None, validation_alias="DEEPSEEK_API_KEY")
    xai_api_key: SecretStr | None = Field(None, validation_alias="XAI_API_KEY")
    vllm_api_key: SecretStr | None = Field(None, validation_alias="VLLM_API_KEY")
    vllm_base_url: str | None = Field(None, validation_alias="VLLM_BASE_URL")
    ollama_host: str | None = Field(None, validation_alias="OLLAMA_HOST")
    gateway: dict[str, Any] = Field(
        {}, description="Routes for every tenant: `[gateway.routes.…]` in the file, a JSON object in the variable."
    )
    embed_batches: dict[str, dict[Literal["inputs", "tokens"], Annotated[int, Field(ge=1)]]] = Field(
        {},
        description='What a request to an embedder carries at most, by model: `{"openai:…": {"inputs": 100}}`. '
        "2,048 inputs and 240,000 tokens otherwise.",
    )
    local_models: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        {},
        description="Embedding models that run in this process, as `local:<name>`, with the folder or the hub name of "
        'each: `{"minilm": "/models/all-MiniLM-L6-v2"}`. Needs the extra `local`.',
    )
    index_memory_mb: int = Field(
        1024, ge=64, le=1_000_000, description="Most memory that the build of a vector index takes, in MB."
    )
    app: str | None = Field(None, description="`module:attribute` of your own App, for up, serve and worker.")

    @field_validator("redis_url")
    @classmethod
    def _redis_scheme(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must begin with redis://, rediss:// (TLS) or unix://, such as redis://127.0.0.1:6379/0")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _smtp_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("smtp://", "smtps://")):
            raise ValueError("must begin with smtp:// (STARTTLS) or smtps:// (TLS), such as smtps://user:password@host")
        return value

    @field_validator("admin_key")
    @classmethod
    def _long_admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError("needs at least 16 characters")
        if value is not None and not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value.get_secret_value()):
            raise ValueError("must travel in a header: printable ASCII, no space at either end")
        return value

    @field_validator("master_key")
    @classmethod
    def _long_master_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("needs at least 32 characters; `openssl rand -hex 32` makes one")
        return value

    @field_validator("gateway", "embed_batches", "local_models", mode="before")
    @classmethod
    def _table_or_json(cls, value: object) -> object:
        # The keys of `gateway` are checked by the gateway when it is made.
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a JSON object") from None

    @field_validator("unknown_price")
    @classmethod
    def _price_or_refuse(cls, value: str) -> str:
        if value != "refuse":
            try:
                price = float(value)
            except ValueError:
                raise ValueError("must be `refuse` or a price in USD per million tokens, such as 0") from None
            if not 0 <= price < 1e6:
                raise ValueError("must be a price between 0 and 1000000")
        return value

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        if self.database_url and not self.master_key:
            raise ValueError(
                "BACKSTAY_MASTER_KEY is needed with BACKSTAY_DATABASE_URL, because every process must share it: "
                "`openssl rand -hex 32` makes one"
            )
        if bool(self.app_database_url) != bool(self.system_database_url):
            raise ValueError("BACKSTAY_APP_DATABASE_URL and BACKSTAY_SYSTEM_DATABASE_URL must be set together")
        if self.smtp_url and not self.email_from:
            raise ValueError("BACKSTAY_EMAIL_FROM is needed with BACKSTAY_SMTP_URL: it is who the mail comes from")
        if self.lease_seconds < 1 and self.workers > 8:
            raise ValueError(
                "BACKSTAY_LEASE_SECONDS under 1 with BACKSTAY_WORKERS over 8 is heartbeat load without gain: raise the "
                "lease or run fewer workers"
            )
        return self

    def provider_variables(self) -> dict[str, str]:
        """The variables that providers' own clients read, as far as they are set: ours, and what the environment
        has.
        """
        found = {name: value for name, value in os.environ.items() if value and not name.startswith(PREFIX)}
        for name, field in type(self).model_fields.items():
            value, alias = getattr(self, name), field.validation_alias
            if isinstance(alias, str):
                found.pop(alias, None)
                if value is not None:
                    found[alias] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Environment and files are read by `load`, which can then say where each value came from.
        return (init_settings,)

    @classmethod
    def load(cls, **arguments: Any) -> "Settings":
        """Reads every source.

        Raises:
            ConfigurationError: an unknown name, a value out of range, or settings that do not go together.
        """
        return cls.load_with_sources(**arguments)[0]

    @classmethod
    def load_with_sources(cls, **arguments: Any) -> tuple["Settings", dict[str, str]]:
        """As `load`, with the source of every setting by name."""
        layers = {
            "argument": {name: value for name, value in arguments.items() if value is not None},
            "environment": _from_environment(cls),
            "file": _from_secret_files(cls),
            "backstay.toml": _from_toml(cls),
        }
        values: dict[str, Any] = {}
        origin = dict.fromkeys(cls.model_fields, "default")
        for source, layer in reversed(layers.items()):
            values |= layer
            origin |= dict.fromkeys(layer, source)
        try:
            return cls(**values), origin
        except ValidationError as error:
            raise _explained(error) from None


def _variable(cls: type[Settings], name: str) -> str:
    alias = cls.model_fields[name].validation_alias
    return alias if isinstance(alias, str) else PREFIX + name.upper()


def _from_environment(cls: type[Settings]) -> dict[str, Any]:
    known = {_variable(cls, name): name for name in cls.model_fields}
    unknown = [
        key
        for key in os.environ
        if key.startswith(PREFIX) and key not in known and key.removesuffix("_FILE") not in known
    ]
    if unknown:
        raise ConfigurationError(
            f"unknown setting {', '.join(sorted(unknown))}. `backstay config show` lists the known ones; "
            "correct the name or unset it."
        )
    return {name: os.environ[key] for key, name in known.items() if os.environ.get(key)}


def _from_secret_files(cls: type[Settings]) -> dict[str, Any]:
    values = {}
    for name in cls.model_fields:
        variable = _variable(cls, name) + "_FILE"
        path = os.environ.get(variable)
        if not path:
            continue
        try:
            values[name] = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{variable} points to {path}, which cannot be read: {_reason(error)}") from None
    return values


def _from_toml(cls: type[Settings]) -> dict[str, Any]:
    path = Path("backstay.toml")
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"backstay.toml cannot be read: {_reason(error)}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"backstay.toml is not valid TOML: {error}") from None
    unknown = sorted(set(values) - set(cls.model_fields))
    if unknown:
        raise ConfigurationError(f"unknown setting {', '.join(unknown)} in backstay.toml; correct or remove it.")
    return values


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8"


def _named(field: str) -> str:
    """The variable of a field in front of a message; a message about several fields names them itself."""
    if not field:
        return ""
    setting, dot, inner = field.partition(".")
    return f"{_variable(Settings, setting) if setting in Settings.model_fields else setting}{dot}{inner}: "


def _explained(error: ValidationError) -> ConfigurationError:
    wrong = [
        FieldError(
            field=".".join(str(part) for part in item["loc"]),
            message=item["msg"].removeprefix("Value error, "),
        )
        for item in error.errors(include_input=False, include_url=False)
    ]
    lines = "; ".join(f"{_named(item.field)}{item.message}" for item in wrong)
    return ConfigurationError(f"these settings are wrong: {lines}", errors=wrong)
