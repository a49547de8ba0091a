"""Topics: what notices are about, and how far they have come."""

from __future__ import annotations

import json

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from mcp_django.models.base import DIGEST_LENGTH, digest_of


class Topic(models.Model):
    """Something that notices are about, and the number of the last one.

    Numbers come from the server's clock, a topic as well, which is raised first and stays locked until the commit:
    so they are committed in their order, and who has seen the clock at a number has seen every notice up to it.
    """

    class Kind(models.TextChoices):
        CLOCK = "clock", _("clock")
        TOOLS = "tools", _("tool list")
        PROMPTS = "prompts", _("prompt list")
        RESOURCES = "resources", _("resource list")
        RESOURCE = "resource", _("resource")

    id = models.CharField(_("digest"), primary_key=True, max_length=DIGEST_LENGTH)
    server = models.CharField(_("server"), max_length=100)
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    uri = models.TextField(_("URI"), blank=True)
    version = models.BigIntegerField(_("version"), default=0)
    raised_at = models.DateTimeField(_("raised"), default=timezone.now)

    class Meta:
        verbose_name = _("topic")
        verbose_name_plural = _("topics")
        indexes = [models.Index(fields=["server", "version"], name="mcp_topic_version")]

    def __str__(self) -> str:
        return self.uri or self.kind

    @staticmethod
    def id_of(server: str, kind: str, uri: str = "") -> str:
        """The key of a topic: URIs are too long for an index, and some collations mix them up."""
        return digest_of(json.dumps([server, kind, uri]))

    def raise_to(self, version: int) -> None:
        """Note a notice about this topic, with a number from the clock."""
        values = {"version": version, "raised_at": timezone.now()}
        rows = type(self)._default_manager.using(self._state.db)
        if not rows.filter(pk=self.pk, version__lt=version).update(**values):
            rows.get_or_create(
                pk=self.pk, defaults={"server": self.server, "kind": self.kind, "uri": self.uri, **values}
            )
