"""The steps of a minted URL."""

from media_callbacks.explain.case import Case, find_any_token, from_epoch, span
from media_callbacks.model.errors import UnknownToken
from media_callbacks.model.times import format_time
from media_callbacks.sources.transports.token_url import TokenUrlSource
from media_callbacks.sources.transports.url_tokens import TOKEN_LENGTH, TOKEN_VERSION, UncheckedToken, decode_token


class TokenUrlSteps:
    """The steps of a minted URL."""

    def __init__(self, case: Case, source: TokenUrlSource) -> None:
        self.case = case
        self.source = source

    def run(self) -> None:
        case, source = self.case, self.source
        text = case.callback.raw_path.rpartition(b"/")[2]
        expected = f"{TOKEN_LENGTH} characters of the base64url alphabet after {source.path}/"
        try:
            found: UncheckedToken | None = decode_token(text)
        except UnknownToken as error:
            case.step("token", "failed", expected=expected, came=str(error))
            found = self._explainshape(text)
        else:
            case.step("token", "ok", expected=expected, came=f"{TOKEN_LENGTH} characters")
        if found is None:
            for name in ("token fields", "mac", "expiry"):
                case.step(name, "not checked", came="there is no token to look into")
            return
        self.explain_fields(found)
        self.explain_mac(found)
        self.explain_expiry(found)

    def _explainshape(self, text: bytes) -> UncheckedToken | None:
        case = self.case
        if (found := find_any_token(case.callback, case.around)) is not None:
            case.find(
                "token_place",
                "there is a token, but it is not the last part of the path as it was minted: something was put around"
                " or after it",
                "submit the minted URL as it is; look for a proxy that rewrites the path (a slash at the end, an"
                " encoding, a suffix)",
            )
            return found
        near = 0 < abs(len(text) - TOKEN_LENGTH) <= 3
        case.find(
            "token_shape",
            f"the last part of the path has {len(text)} characters, a token has {TOKEN_LENGTH}"
            + (": it was cut or something was added" if near else ""),
            "submit the URL that media-callbacks mint prints, in full; nothing shorter can be verified",
        )
        return None

    def explain_fields(self, found: UncheckedToken) -> None:
        case, token = self.case, found.token
        expires = from_epoch(token.expires_at)
        case.step(
            "token fields",
            found.version == TOKEN_VERSION,
            expected=f"version {TOKEN_VERSION}",
            came=f"version {found.version}, key id {token.key_id}, expires"
            f" {format_time(expires) if expires else token.expires_at}, nonce {token.nonce.hex()}",
        )

    def explain_mac(self, found: UncheckedToken) -> None:
        case, source, key_id = self.case, self.source, found.token.key_id
        ids = ", ".join(map(str, source.keys))
        key = source.keys.get(key_id)
        expected = f"made with the key of id {key_id}"
        if key is not None and found.is_made_with(key):
            case.step("mac", "ok", expected=expected, came="right")
            return
        came = "wrong" if key is not None else f"there is no key of this id; configured are {ids}"
        case.step("mac", "failed", expected=expected, came=came)
        for other in case.around.sources:
            if not isinstance(other, TokenUrlSource):
                continue
            for other_id, other_key in other.keys.items():
                if found.is_made_with(other_key):
                    case.find(
                        "key_switched",
                        f"the token was made with the key that has id {other_id} in sources.{other.name}.keys, while"
                        f" the token says {key_id}",
                        f"give that key the id {key_id} in sources.{source.name}.keys, and new keys new ids",
                    )
                    return
        if key is None:
            case.find(
                "key_switched",
                f"the token was made with key id {key_id}, which sources.{source.name}.keys does not have ({ids}): the"
                " key was removed before its URLs expired, or the URL was minted elsewhere",
                "keep old keys until the URLs minted with them have expired, seven days by default",
            )
        else:
            case.find(
                "key_unknown",
                f"no configured key made this token, although id {key_id} is one of them: the key behind the id is"
                " another one (another environment, or replaced under the same id), or the URL was altered",
                "mint with the keys of the service that receives; a new key gets a new id",
            )

    def explain_expiry(self, found: UncheckedToken) -> None:
        case, now = self.case, self.case.around.now
        age_s = now.timestamp() - found.token.expires_at
        is_fresh = age_s <= 0
        came = f"{span(age_s)} {'left' if is_fresh else 'ago'}"
        if not case.around.is_arrival_known:
            came += ", counted from now: the file does not say when it came"
        case.step("expiry", is_fresh, expected="in the future", came=came)
        # What it would have given in time.
        expires = from_epoch(found.token.expires_at)
        case.sent_at = None if is_fresh or expires is None else min(expires, now)
        if not is_fresh:
            is_known = case.around.is_arrival_known
            case.find(
                "expired" if is_known else "old_capture",
                f"the token expired {span(age_s)} "
                + ("before the request came" if is_known else "ago; whether it had when the request came is not known"),
                "mint with more days (--days) if tasks take this long; check the clock of this machine"
                if is_known
                else "give the moment of arrival with --at",
            )
