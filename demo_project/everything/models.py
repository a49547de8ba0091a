"""What is stored for everybody: which tools are shown."""

from __future__ import annotations

from django.db import models


class VisibilityQuerySet(models.QuerySet["Visibility"]):
    def shows(self, tool: str) -> bool:
        """Whether a tool is shown; one that was never switched is not."""
        return self.filter(tool=tool, visible=True).exists()


class Visibility(models.Model):
    """Whether a tool is shown."""

    tool = models.CharField(max_length=100, primary_key=True)
    visible = models.BooleanField(default=False)

    objects = VisibilityQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "visibilities"

    def __str__(self) -> str:
        return f"{self.tool}: {'visible' if self.visible else 'hidden'}"

    def toggle(self) -> bool:
        """Show what is hidden, hide what is shown, and say which it was. Of many at once, each has its turn."""
        rows = Visibility.objects.filter(pk=self.pk)
        while not rows.filter(visible=self.visible).update(visible=not self.visible):
            self.refresh_from_db()
        self.visible = not self.visible
        return self.visible
