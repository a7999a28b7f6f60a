"""Why a request is accepted or refused. Never imported by the service: the command that serves brings it along."""
