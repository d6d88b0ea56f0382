"""Auth: who is calling, for which tenant, and what they may do.

Owns        tenant, principal, api_key
Guarantees  A key's secret is shown once and stored as a keyed digest (HMAC-SHA256).
            Unknown, revoked and expired keys get the same answer.
            Nobody grants more than they have. A revoked key stops at once here, within 10 s elsewhere.
"""

from .models import ROLES, ApiKey, IssuedKey, KeyNotFound, PrincipalExists, Tenant, TenantExists, UnknownRole
from .service import DEFAULT_TENANT, Auth

__all__ = [
    "DEFAULT_TENANT",
    "ROLES",
    "ApiKey",
    "Auth",
    "IssuedKey",
    "KeyNotFound",
    "PrincipalExists",
    "Tenant",
    "TenantExists",
    "UnknownRole",
]
