"""The products' queries, by product."""

from collections.abc import Mapping

from media_callbacks.healing.queries import ims, mts, multimediaai, unknown, vod
from media_callbacks.healing.queries.base import ProductQueries, QuerySource
from media_callbacks.model.kinds import PRODUCTS, Product
from media_callbacks.sources.base import Message, Parsed

QUERIES: Mapping[Product, ProductQueries] = {
    "vod": ProductQueries(vod.FAMILIES, vod.ask, vod.parse, vod.ASSET_FAMILIES),
    "ims": ProductQueries(ims.FAMILIES, ims.ask, ims.parse),
    "mts": ProductQueries(mts.FAMILIES, mts.ask, mts.parse),
    "multimediaai": ProductQueries(multimediaai.FAMILIES, multimediaai.ask, multimediaai.parse),
}


def build_query_source(name: str, product: Product, account: str) -> QuerySource:
    """The source that the answers about a product's jobs are read as."""
    read_answer = QUERIES[product].parse

    def parse(message: Message) -> Parsed:
        return unknown.parse(message) if message.meta.get("action") == unknown.ACTION else read_answer(message)

    return QuerySource(name=name, product=product, account=account, parser=parse)


def read_asked(meta: Mapping[str, str]) -> tuple[Product, str] | None:
    """Product and account of an answer that was kept; None when this is no answer."""
    product = next((product for product in PRODUCTS if product == meta.get("product")), None)
    return None if product is None or "action" not in meta else (product, meta.get("account", "default"))
