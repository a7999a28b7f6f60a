"""Why a captured request is accepted or refused. Never imported by the service."""
