"""System checks: what would go wrong in production, said at start-up. Each has an id and says what to change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.urls import LocalePrefixPattern, URLResolver, get_resolver
from django.utils.module_loading import import_string

from mcp_django import conf
from mcp_django.auth import default_authenticators
from mcp_django.models import Session
from mcp_django.routes import mcp_routes
from mcp_django.server import servers
from mcp_django.store import session_store

# What these do for a page is of no use to an MCP client, or the endpoint does it itself.
HARMLESS_MIDDLEWARE = frozenset(
    {
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csp.ContentSecurityPolicyMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.auth.middleware.LoginRequiredMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "corsheaders.middleware.CorsMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "debug_toolbar.middleware.DebugToolbarMiddleware",
        "django_browser_reload.middleware.BrowserReloadMiddleware",
    }
)

AppConfigs = Sequence[AppConfig] | None


@register()
def settings_are_known_and_right(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E001, E002: names that no setting has, values of the wrong kind."""
    wrong = False
    for name in conf.named_in_project():
        if name not in conf.SETTINGS:
            known = ", ".join(conf.PREFIX + known for known in conf.SETTINGS)
            yield Error(f"There is no setting {conf.PREFIX}{name}.", hint=f"Known are {known}.", id="mcp_django.E001")
        elif problem := conf.wrong(name, getattr(settings, conf.PREFIX + name)):
            wrong = True
            yield Error(problem, id="mcp_django.E002")
    if not wrong and conf.mcp_settings.TOUCH_RESOLUTION * 2 > conf.mcp_settings.SESSION_TTL:
        yield Error(
            "MCP_DJANGO_TOUCH_RESOLUTION must be less than half of MCP_DJANGO_SESSION_TTL.",
            hint="Sessions in use would expire between two touches.",
            id="mcp_django.E002",
        )


@register()
def servers_can_be_built(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E003, E004: registrations that make no schema; a session store or authenticator that cannot be had."""
    for server in servers():
        try:
            server.kernel  # noqa: B018 - built at first access
        except Exception as error:
            yield Error(
                f"Server {server.name!r} cannot be built: {error}",
                hint="Look at the signatures and URIs of its tools, resources and prompts.",
                obj=server,
                id="mcp_django.E003",
            )
    try:
        session_store()
        default_authenticators()
    except (ImproperlyConfigured, ImportError) as error:
        yield Error(str(error), id="mcp_django.E004")


@register(Tags.security)
def authenticators_have_what_they_need(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E006, and what other authenticators bring along: an app or a setting is missing that one needs."""
    try:
        named = dict.fromkeys(one for server in servers() for one in server.authenticators)
        for authenticator in named:
            yield from authenticator.check()
    except (ImproperlyConfigured, ImportError):
        return  # E002, E003 or E004


@register(Tags.security)
def permissions_are_of_installed_apps(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W005: a permission that nobody but a superuser can have, since its app is not there to bring it."""
    for server in servers():
        for registration in server.registrations:
            permission = registration.options.get("permission")
            label = permission.partition(".")[0] if isinstance(permission, str) else ""
            if label and label not in apps.app_configs:
                yield Warning(
                    f"{registration.place} needs the permission {permission!r}, and no installed app is labelled "
                    f"{label!r}.",
                    hint="Only superusers are offered it. A permission is written as 'app_label.codename', with the "
                    "label of the app that has the model.",
                    obj=server,
                    id="mcp_django.W005",
                )


@register(Tags.urls)
def urls_have_no_language_prefix(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """E005: an endpoint under ``i18n_patterns`` has a URL that changes with the reader's language."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return
    for pattern in get_resolver().url_patterns:
        if isinstance(pattern, URLResolver) and isinstance(pattern.pattern, LocalePrefixPattern):
            for _route, server in mcp_routes(pattern):
                yield Error(
                    f"Server {server.name!r} is included under i18n_patterns().",
                    hint="Include it outside of them: its URL must not depend on a language.",
                    id="mcp_django.E005",
                )


@register()
def middleware_is_not_missed(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W001: middleware that the native entry does not run."""
    path = getattr(settings, "ASGI_APPLICATION", None)
    if not path:
        return
    try:
        application = import_string(path)
    except ImportError:
        # Whoever serves it will say so; under WSGI nobody needs it.
        return
    if getattr(application, "runs_middleware", True):
        return
    for name in settings.MIDDLEWARE:
        if name not in HARMLESS_MIDDLEWARE:
            yield Warning(
                f"{name} does not run for MCP requests: the native entry runs no middleware.",
                hint="If MCP requests need it, use django.core.asgi.get_asgi_application() in asgi.py; the same URLs "
                "are then served by a view. Otherwise add mcp_django.W001 to SILENCED_SYSTEM_CHECKS.",
                id="mcp_django.W001",
            )


@register(Tags.database)
def sqlite_is_ready_for_threads(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W002: SQLite that answers "database is locked" as soon as two threads write."""
    connection = connections[router.db_for_write(Session)]
    if connection.vendor != "sqlite":
        return
    mode = connection.settings_dict.get("OPTIONS", {}).get("transaction_mode")
    if str(mode).upper() != "IMMEDIATE":
        yield Warning(
            "SQLite is used without transaction_mode IMMEDIATE; concurrent writes will fail as locked.",
            hint='Set OPTIONS = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": '
            '"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
            id="mcp_django.W002",
        )


@register(deploy=True)
def sessions_are_durable(app_configs: AppConfigs, **kwargs: Any) -> Iterator[CheckMessage]:
    """W003, W004: what is fine on a laptop only."""
    try:
        durable = session_store().durable
    except ImproperlyConfigured:
        return  # E002 or E004
    if not durable:
        yield Warning(
            "Sessions are kept in the memory of one process: a restart or a second process loses them.",
            hint="Leave MCP_DJANGO_SESSION_STORE at its default, the ORM store.",
            id="mcp_django.W003",
        )
    if "*" in settings.ALLOWED_HOSTS:
        yield Warning(
            "ALLOWED_HOSTS holds '*': an attacker's web page can reach MCP servers by DNS rebinding.",
            hint="Name the hosts that the project is served under.",
            id="mcp_django.W004",
        )
