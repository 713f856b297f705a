"""Request smuggling in its published forms: bytes whose meaning two servers in a row may see differently.

Each case is one client's bytes. `/smuggled-000` is a request that hides in another one and that no backend may ever see; where a
reader must take it for a request of its own, the case says so with `/second-000`. The zeros are replaced by a number, so that
many cases can share a backend; the length stays.
"""

from dataclasses import dataclass

SMUGGLED = b"GET /smuggled-000 HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /victim-000 HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /victim-000 HTTP/1.1\r\nHost: x\r\n"
END = b"0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass
class Attack:
    data: bytes
    #: What the backend may see at most of it: None, or the one request's body.
    body: bytes = None
    statuses: tuple = (400,)
    #: The chunk framing is broken behind a good head.
    in_body: bool = False

    @property
    def passes(self):
        return self.body is not None

    def numbered(self, number):
        return self.data.replace(b"-000 ", b"-%03d " % number)


def framed(fields, body=b"", head=POST):
    return head + fields + b"\r\n" + body


def refused(fields, body=b"", head=POST, statuses=(400,)):
    return Attack(framed(fields, body, head), statuses=statuses)


def passed(fields, body=b"", head=POST, raw=None):
    return Attack(framed(fields, body if raw is None else raw, head), body=body, statuses=(200,))


def length(body, spelling=b"Content-Length: %d\r\n"):
    return spelling % len(body)


def _transfer_codings():
    """TE.TE: one server honours the field, the other does not."""
    inner = END + SMUGGLED
    wrong = {
        "xchunked": b"xchunked", "chunked, identity": b"chunked, identity", "identity, chunked": b"identity, chunked",
        "gzip, chunked": b"gzip, chunked", "chunked, chunked": b"chunked, chunked", "chunked;q=1": b"chunked;q=1",
        "chunked;": b"chunked;", "comma first": b",chunked", "comma last": b"chunked,", "vertical tab first": b"\x0bchunked",
        "vertical tab last": b"chunked\x0b", "form feed": b"\x0cchunked", "NUL last": b"chunked\x00", "quoted": b'"chunked"',
        "cut": b"chunke", "two words": b"chunked x", "cow": b"cow", "empty": b"", "identity": b"identity",
        "no-break space": b"\xa0chunked", "next line": b"\x85chunked", "escaped": b"%63hunked", "long s": b"chun\xc5\xbfed",
        "folded": b"\r\n chunked", "folded with a tab": b"\r\n\tchunked", "folded before identity": b"chunked\r\n identity",
        "folded blank line": b"chunked\r\n ", "bare CR": b"\rchunked", "bare LF": b"\nchunked", "bare LF folded": b"\n chunked",
    }  # fmt: skip
    cases = {}
    for name, value in wrong.items():
        field = b"Transfer-Encoding: " + value + b"\r\n"
        cases[f"TE.TE {name}"] = refused(field, inner)
        cases[f"TE.CL {name}"] = refused(field + length(inner), inner)
        cases[f"CL.TE {name}"] = refused(length(inner) + field, inner)
    names = {
        "space before": b" Transfer-Encoding: chunked\r\n", "tab before": b"\tTransfer-Encoding: chunked\r\n",
        "space after": b"Transfer-Encoding : chunked\r\n", "tab after": b"Transfer-Encoding\t: chunked\r\n",
        "NUL after": b"Transfer-Encoding\x00: chunked\r\n", "NUL before": b"\x00Transfer-Encoding: chunked\r\n",
        "vertical tab inside": b"Transfer-\x0bEncoding: chunked\r\n", "break before the colon": b"Transfer-Encoding\r\n: chunked\r\n",
        "behind a bare LF": b"X: x\nTransfer-Encoding: chunked\r\n", "behind a bare CR": b"X: x\rTransfer-Encoding: chunked\r\n",
        "behind CR CR LF": b"X: x\r\r\nTransfer-Encoding: chunked\r\n", "no colon": b"Transfer-Encoding chunked\r\n",
        "soft hyphen": b"Transfer\xadEncoding: chunked\r\n",
    }  # fmt: skip
    for name, field in names.items():
        cases[f"TE name {name}"] = refused(field + length(inner), inner)
        cases[f"TE name {name} alone"] = refused(field, inner)
    pairs = [(b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b"chunked"), (b"chunked", b"x"), (b"", b"chunked")]
    for first, second in pairs:
        fields = b"Transfer-Encoding: %s\r\nTransfer-encoding: %s\r\n" % (first, second)
        cases[f"TE twice {first.decode()}+{second.decode()}"] = refused(fields, inner)
    cases["TE from HTTP/1.0"] = refused(CHUNKED, inner, b"POST /victim-000 HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n")
    cases["TE and CL"] = refused(CHUNKED + length(inner), inner)
    cases["CL and TE"] = refused(length(inner) + CHUNKED, inner)
    cases["CL 0 and TE"] = refused(b"Content-Length: 0\r\n" + CHUNKED, inner)
    for spelling in (b"cHuNkEd", b"\tchunked", b"chunked ", b"   chunked"):
        cases[f"legal coding {spelling!r}"] = passed(b"Transfer-Encoding: " + spelling + b"\r\n", raw=END)
    # No transfer coding at all, whatever the name looks like: the length rules, and the body is one body.
    for field in (b"Transfer_Encoding: chunked\r\n", b"TE: chunked\r\n", b"X-Transfer-Encoding: chunked\r\n", b"Trailer: x\r\n"):
        cases[f"no coding: {field[:-2].decode()}"] = passed(field + length(inner), inner)
    return cases


def _lengths():
    cases = {}
    wrong = {
        "plus": b"+5", "minus": b"-5", "minus zero": b"-0", "hexadecimal": b"0x5", "blank inside": b"5 0", "list": b"5, 5",
        "list of two": b"5, 42", "list with an empty item": b"5,", "fraction": b"5.0", "exponent": b"5e0", "underscore": b"1_0",
        "full-width digit": b"\xef\xbc\x95", "parameter": b"5;a=b", "empty": b"", "blank": b" ", "word": b"five", "quoted": b'"5"',
        "NUL": b"5\x00", "vertical tab last": b"5\x0b", "vertical tab first": b"\x0b5", "no-break space": b"\xa05",
        "folded": b"5\r\n 0", "folded first": b"\r\n 5", "bare CR": b"5\r0", "bare LF": b"5\n0", "2^63": b"9223372036854775808",
        "2^64": b"18446744073709551616", "2^64 + 5": b"18446744073709551621", "10^30": b"1" + b"0" * 30,
    }  # fmt: skip
    for name, value in wrong.items():
        cases[f"CL {name}"] = refused(b"Content-Length: " + value + b"\r\n", b"hello" + SMUGGLED)
    cases["CL 2^32 + 5"] = refused(b"Content-Length: 4294967301\r\n", b"hello" + SMUGGLED, statuses=(413,))
    cases["CL 2^63 - 1"] = refused(b"Content-Length: 9223372036854775807\r\n", b"hello" + SMUGGLED, statuses=(400, 413))
    for first, second in ((5, 5), (5, 0), (0, 5), (5, 42)):
        fields = b"Content-Length: %d\r\nContent-length: %d\r\n" % (first, second)
        cases[f"CL.CL {first}+{second}"] = refused(fields, b"hello" + SMUGGLED)
    names = {
        "space after": b"Content-Length : 5\r\n", "tab after": b"Content-Length\t: 5\r\n", "space before": b" Content-Length: 5\r\n",
        "NUL after": b"Content-Length\x00: 5\r\n", "break before the colon": b"Content-Length\r\n: 5\r\n",
        "behind a bare LF": b"X: x\nContent-Length: 5\r\n", "behind a bare CR": b"X: x\rContent-Length: 5\r\n",
    }  # fmt: skip
    for name, field in names.items():
        cases[f"CL name {name}"] = refused(field, b"hello" + SMUGGLED)
    cases["legal length with blanks around"] = passed(b"Content-Length: \t 5  \r\n", b"hello")
    cases["legal length with zeros"] = passed(b"Content-Length: 0005\r\n", b"hello")
    cases["body of GET"] = passed(length(SMUGGLED), SMUGGLED, GET)
    cases["body of GET in chunks"] = passed(CHUNKED, SMUGGLED, GET, raw=b"%x\r\n%s\r\n" % (len(SMUGGLED), SMUGGLED) + END)
    cases["body of POST is a request"] = passed(length(SMUGGLED), SMUGGLED)
    cases["Content_Length beside the length"] = passed(b"Content_Length: 0\r\n" + length(SMUGGLED), SMUGGLED)
    return cases


def _chunks():
    """Broken chunk framing; the head is good, so a backend may have begun to hear of the request."""
    hello = b"hello\r\n" + END
    wrong = {
        "size empty": b"\r\nhello", "size negative": b"-5\r\n" + hello, "size with plus": b"+5\r\n" + hello,
        "size with 0x": b"0x5\r\n" + hello, "size with a blank first": b" 5\r\n" + hello, "size with a letter": b"5h\r\n" + hello,
        "size with an underscore": b"0_5\r\n" + hello, "two sizes": b"5 5\r\n" + hello, "two sizes with a tab": b"5\t7\r\n" + hello,
        "size with NUL": b"5\x00\r\n" + hello, "size with a vertical tab": b"5\x0b\r\n" + hello, "size with a comma": b"5,0\r\n" + hello,
        "size of 2^64 + 5": b"10000000000000005\r\n" + hello, "size of 2^64 - 1": b"ffffffffffffffff\r\n" + hello,
        "size of 2^63": b"8000000000000000\r\n" + hello, "size of 40 digits": b"f" * 40 + b"\r\n" + hello,
        "size line ended by LF": b"5\n" + hello, "size line ended by CR": b"5\rhello\r\n" + END, "size line with CR CR LF": b"5\r\r\n" + hello,
        "extension ended by LF": b"5;a=b\n" + hello, "extension with LF": b"5;\nxx\r\n" + hello, "extension with CR": b"5;a\rb\r\n" + hello,
        "extension with LF in quotes": b'5;a="\n"\r\n' + hello, "extension with NUL": b"5;a\x00\r\n" + hello,
        "extension without a size": b";a=b\r\n" + hello, "data ended by LF": b"5\r\nhello\n" + END,
        "data ended by CR": b"5\r\nhello\r" + END, "data without its end": b"5\r\nhello" + END, "data too long": b"5\r\nhelloXX\r\n" + END,
        "data too long by a line": b"5\r\nhello\r\n\r\n" + END, "last chunk ended by LF": b"0\n\n", "last line ended by LF": b"0\r\n\n",
        "last line ended by CR": b"0\r\n\rX", "trailer ended by LF": b"0\r\nX-T: 1\n\r\n", "trailer with CR": b"0\r\nX-T: 1\r2\r\n\r\n",
        "trailer with NUL": b"0\r\nX-T: \x00\r\n\r\n",
        # The request behind a body whose last line is missing becomes its trailers.
        "request in the trailers": b"0\r\n", "trailer folded": b"0\r\nX-T: 1\r\n 2\r\n\r\n", "trailer folded first": b"0\r\n X-T: 1\r\n\r\n",
        "trailer with a blank before its colon": b"0\r\nX-T : 1\r\n\r\n", "trailer without a name": b"0\r\n: 1\r\n\r\n",
        "trailer without a colon": b"0\r\nX-T\r\n\r\n",
    }  # fmt: skip
    cases = {}
    for name, body in wrong.items():
        for kind in (b"application/json", b"text/plain"):
            fields = b"Content-Type: " + kind + b"\r\n" + CHUNKED
            cases[f"chunk {name} ({kind.decode()})"] = Attack(framed(fields, body + SMUGGLED), in_body=True)
    legal = {
        "extension": b"5;a=b;c\r\n" + hello, "extension in quotes": b'5;a="b;c"\r\n' + hello, "blank before the end": b"5 \r\n" + hello,
        "blank before an extension": b"5 ;a\r\n" + hello, "upper-case size": b"00005\r\n" + hello,
        "quotes left open": b'5;a="\r\n' + hello, "trailers": b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        "framing in trailers": b"5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\nHost: evil\r\n\r\n",
    }  # fmt: skip
    for name, body in legal.items():
        cases[f"legal chunk {name}"] = passed(CHUNKED, b"hello", raw=body)
    return cases


def _heads():
    cases = {}
    for name, line in {
        "two blanks before the target": b"GET  /victim-000 HTTP/1.1", "tab before the target": b"GET\t/victim-000 HTTP/1.1",
        "two blanks before the version": b"GET /victim-000  HTTP/1.1", "tab before the version": b"GET /victim-000 \tHTTP/1.1",
        "blank last": b"GET /victim-000 HTTP/1.1 ", "blank first": b" GET /victim-000 HTTP/1.1", "tab first": b"\tGET /victim-000 HTTP/1.1",
        "NUL first": b"\x00GET /victim-000 HTTP/1.1", "lower-case method": b"get /victim-000 HTTP/1.1",
        "mixed-case method": b"Get /victim-000 HTTP/1.1", "method with a colon": b"GET: /victim-000 HTTP/1.1",
        "method with NUL": b"GE\x00T /victim-000 HTTP/1.1", "two requests in a line": b"GET /victim-000 HTTP/1.1 GET /smuggled-000 HTTP/1.1",
        "blank in the target": b"GET /victim-000 /b HTTP/1.1", "version twice": b"GET /victim-000 HTTP/1.1 HTTP/1.1",
        "version in lower case": b"GET /victim-000 http/1.1", "version without digits": b"GET /victim-000 HTTP/",
        "version of one digit": b"GET /victim-000 HTTP/1", "version with a blank": b"GET /victim-000 HTTP/ 1.1",
        "version with letters": b"GET /victim-000 HTTP/1.x", "no version": b"GET /victim-000", "no target": b"GET HTTP/1.1",
        "no method": b"/victim-000 HTTP/1.1", "CONNECT": b"CONNECT x:80 HTTP/1.1", "target without a slash": b"GET victim-000 HTTP/1.1",
        "asterisk of GET": b"GET * HTTP/1.1", "scheme of another kind": b"GET ftp://x/victim-000 HTTP/1.1",
        "absolute target without a host": b"GET http:///victim-000 HTTP/1.1", "LF in the target": b"GET /victim-000\nX: x HTTP/1.1",
        "absolute target with a blank": b"GET http://x y/victim-000 HTTP/1.1",
        "absolute target with a user": b"GET http://u:p@x/victim-000 HTTP/1.1",
        "absolute target with a bad host": b"GET http://x\\y/victim-000 HTTP/1.1",
    }.items():  # fmt: skip
        cases[f"request line: {name}"] = Attack(line + b"\r\nHost: x\r\n\r\n")
    for version in (b"0.9", b"1.2", b"1.9", b"1.10", b"01.1", b"2.0", b"3", b"9.9", b"11.1", b"1.1.1", b"4294967297.1"):
        cases[f"version {version.decode()}"] = Attack(
            b"GET /victim-000 HTTP/" + version + b"\r\nHost: x\r\n\r\n", statuses=(400, 505)
        )
    host = {
        "none": b"", "twice": b"Host: x\r\nHost: x\r\n", "twice, different": b"Host: x\r\nhost: y\r\n", "with a blank": b"Host: a b\r\n",
        "with a slash": b"Host: a/b\r\n", "with a user": b"Host: u@a\r\n", "with a backslash": b"Host: a\\b\r\n", "with NUL": b"Host: a\x00\r\n",
        "with a query": b"Host: a?b\r\n", "with a fragment": b"Host: a#b\r\n", "with markup": b"Host: <a>\r\n", "with quotes": b'Host: "a"\r\n',
        "with a tab": b"Host: a\tb\r\n", "with a brace": b"Host: {a}\r\n", "of another alphabet": b"Host: \xc3\xa9\r\n",
        "folded": b"Host:\r\n x\r\n", "with a blank before the colon": b"Host : x\r\n", "with a blank first": b" Host: x\r\n",
    }  # fmt: skip
    for name, fields in host.items():
        cases[f"host {name}"] = Attack(b"GET /victim-000 HTTP/1.1\r\n" + fields + b"\r\n")
    fields = {
        "bare LF everywhere": b"GET /victim-000 HTTP/1.1\nHost: x\n\n", "bare LF at the end": b"GET /victim-000 HTTP/1.1\r\nHost: x\r\n\n",
        "LF CR at the end": b"GET /victim-000 HTTP/1.1\r\nHost: x\n\r\n", "CR CR LF": b"GET /victim-000 HTTP/1.1\r\nHost: x\r\r\n\r\n",
        "bare CR in a value": GET + b"X: a\rb\r\n\r\n", "bare CR as the end": b"GET /victim-000 HTTP/1.1\rHost: x\r\r",
        "request behind a bare LF": GET + b"X: x\n\nGET /smuggled-000 HTTP/1.1\r\nHost: x\r\n\r\n",
        "request behind bare CRs": GET + b"X: x\r\rGET /smuggled-000 HTTP/1.1\r\nHost: x\r\n\r\n",
        "folded": GET + b"X: a\r\n b\r\n\r\n", "folded with a tab": GET + b"X: a\r\n\tb\r\n\r\n", "folded to nothing": GET + b"X: a\r\n \r\n\r\n",
        "no name": GET + b": x\r\n\r\n", "no colon": GET + b"X\r\n\r\n", "blank as a name": GET + b" : x\r\n\r\n",
        "blank before the colon": GET + b"X : x\r\n\r\n", "tab before the colon": GET + b"X\t: x\r\n\r\n",
        "blank in a name": GET + b"X Y: x\r\n\r\n", "LF before the request": b"\nGET /victim-000 HTTP/1.1\r\nHost: x\r\n\r\n",
    }  # fmt: skip
    cases |= {f"field: {name}": Attack(data) for name, data in fields.items()}
    passing = {
        "Connection: content-length": passed(b"Connection: content-length\r\n" + length(SMUGGLED), SMUGGLED),
        "Connection: transfer-encoding": passed(b"Connection: transfer-encoding\r\n" + CHUNKED, b"hi", raw=b"2\r\nhi\r\n" + END),
        "Connection: host": passed(b"Connection: host\r\n", head=GET),
        "Connection: keep-alive, close, host": passed(b"Connection: keep-alive, host, close\r\n", head=GET),
        "Upgrade: h2c": passed(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", head=GET),
        "line break escaped in a value": passed(b"X-Request-Id: a%0d%0aX-Evil: 1\r\nX: %0d%0a%0d%0aGET /smuggled\r\n", head=GET),
        "absolute target": passed(b"", head=b"GET http://x/victim-000 HTTP/1.1\r\nHost: x\r\n"),
    }
    return cases | passing


#: name: Attack
HTTP1 = _transfer_codings() | _lengths() | _chunks() | _heads()

HTTP1["field: bare CR as the end"].data += b"\r\n\r\n"
