"""PostgreSQL's encodings as Python's: a value that one session was told is to be set in another."""

from __future__ import annotations

import re

NAMES = """
    BIG5=cp950 EUC_CN=gb2312 EUC_JP=euc_jp EUC_JIS_2004=euc_jis_2004 EUC_KR=euc_kr GB18030=gb18030 GBK=gbk
    ISO_8859_5=iso8859_5 ISO_8859_6=iso8859_6 ISO_8859_7=iso8859_7 ISO_8859_8=iso8859_8 JOHAB=johab
    KOI8R=koi8_r KOI8U=koi8_u LATIN1=iso8859_1 LATIN2=iso8859_2 LATIN3=iso8859_3 LATIN4=iso8859_4
    LATIN5=iso8859_9 LATIN6=iso8859_10 LATIN7=iso8859_13 LATIN8=iso8859_14 LATIN9=iso8859_15
    LATIN10=iso8859_16 SHIFT_JIS_2004=shift_jis_2004 SJIS=cp932 UHC=cp949 UTF8=utf_8 WIN866=cp866 WIN874=cp874
    WIN1250=cp1250 WIN1251=cp1251 WIN1252=cp1252 WIN1253=cp1253 WIN1254=cp1254 WIN1255=cp1255 WIN1256=cp1256
    WIN1257=cp1257 WIN1258=cp1258
"""
CODECS = dict(pair.split("=") for pair in NAMES.split())
"""By the names that PostgreSQL reports. Python has none for EUC_TW and MULE_INTERNAL."""
NO_CONVERSION = "SQL_ASCII"


def fold(name: str) -> str:
    """Of an encoding's name PostgreSQL looks at letters and digits only; asyncpg sends quotes."""
    return re.sub("[^0-9a-z]", "", name.lower())


OTHER_NAMES = """
    abc=WIN1258 alt=WIN866 iso88591=LATIN1 iso885910=LATIN6 iso885913=LATIN7 iso885914=LATIN8 iso885915=LATIN9
    iso885916=LATIN10 iso88592=LATIN2 iso88593=LATIN3 iso88594=LATIN4 iso88599=LATIN5 koi8=KOI8R mskanji=SJIS
    shiftjis=SJIS tcvn=WIN1258 tcvn5712=WIN1258 unicode=UTF8 vscii=WIN1258 win=WIN1251 win932=SJIS win936=GBK win949=UHC
    win950=BIG5 windows866=WIN866 windows874=WIN874 windows932=SJIS windows936=GBK windows949=UHC windows950=BIG5
"""
ALIASES = (
    {fold(name): name for name in (*CODECS, NO_CONVERSION)}
    | dict(pair.split("=") for pair in OTHER_NAMES.split())
    | {f"windows{number}": f"WIN{number}" for number in range(1250, 1259)}
)
"""PostgreSQL's pg_encname_tbl (encnames.c)."""


def reported_name(name: str) -> str:
    """As PostgreSQL would report what a client wrote."""
    return ALIASES.get(fold(name), name)


def convert(value: str, source: str, target: str) -> str | None:
    """The bytes of a value (`surrogateescape`) in another encoding; None when that cannot be told."""
    if value.isascii() or source == target or NO_CONVERSION in (source, target):
        return value
    try:
        text = value.encode("utf-8", "surrogateescape").decode(CODECS[source])
        return text.encode(CODECS[target]).decode("utf-8", "surrogateescape")
    except (KeyError, UnicodeError):
        return None
