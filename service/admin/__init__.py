"""The operators' edge: who may look, what there is to see, and what can be steered."""

from service.admin.api import AdminApi
from service.admin.guard import AdminGuard

__all__ = ["AdminApi", "AdminGuard"]
