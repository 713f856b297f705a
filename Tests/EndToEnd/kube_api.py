"""An API server for tests: a live store of objects, lists and watches as the real one serves them, and faults on demand."""

import asyncio
import contextlib
import json
import re
import ssl
import time
import urllib.parse

from faulty_line import FaultyLine

SLICE = "endpointslices"
SERVICE_LABEL = "kubernetes.io/service-name"
KINDS = {SLICE: "EndpointSlice", "pods": "Pod", "nodes": "Node", "endpoints": "Endpoints", "inferencepools": "InferencePool"}


def endpoint(address, pod=None, ready=True, terminating=False, **more):
    made = {"addresses": [address], "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating}}
    if pod:
        made["targetRef"] = {"kind": "Pod", "namespace": "llm", "name": pod, "uid": f"uid-{pod}"}
    return made | more


def slice_of(service, *endpoints, port=8000, name=None, port_name="http"):
    return {
        "metadata": {"name": name or f"{service}-1", "namespace": "llm", "labels": {SERVICE_LABEL: service}},
        "addressType": "IPv4", "endpoints": list(endpoints), "ports": [{"name": port_name, "protocol": "TCP", "port": port}],
    }  # fmt: skip


def pod(name, ready=True, labels=None, annotations=None, ip=None, deleting=False):
    metadata = {"name": name, "namespace": "llm", "uid": f"uid-{name}", "labels": labels or {}, "annotations": annotations or {}}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return {"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": status | ({"podIP": ip} if ip else {})}


class KubeAPI:
    """Serves on a port of 127.0.0.1, on the hub's loop. Every public method may be called from the test's thread."""

    def __init__(self, hub, identity=None, authority=None, faults=None):
        self.hub = hub
        self.faults = faults
        self.version = 1000
        self.oldest = 1000
        self.objects = {}
        self.log = []
        self.written_at = 0  # monotonic nanoseconds at which the last of the objects that were put was there
        self.tokens = None
        self.forbidden = set()
        self.permitted = None  # by plural: names that may be listed and watched, None for all; nothing else may
        self.refused = []
        self.unserved = {"endpoints", "inferencepools"}
        self.streams_lists = True
        self.stalled = False  # True, or the plurals of those watches that tell nothing
        self.script = None  # (path, query) -> (status, body, fields) of a whole answer, or None
        self.pages = {}  # by version and selection: what a list that is under way goes on with
        self.requests = []
        self.ssl = None
        if identity:
            self.show(identity, authority)
        self._writers = {}
        self._watched = {}  # by writer: the plural that it tells of
        self._changed = None
        self._server = None
        self.port = 0
        hub.run(self._listen())

    def show(self, identity, authority=None):
        """The certificate from the next start on, and who may have issued those of clients."""
        self.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ssl.load_cert_chain(identity.certificate, identity.key)
        self.ssl.set_alpn_protocols(["http/1.1"])
        if authority:
            self.ssl.load_verify_locations(authority)
            self.ssl.verify_mode = ssl.CERT_REQUIRED

    async def _listen(self):
        self._changed = asyncio.Condition()
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, ssl=self.ssl)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self):
        return f"{'https' if self.ssl else 'http'}://127.0.0.1:{self.port}"

    # What the test does

    def put(self, resource, *objects):
        self.hub.run(self._put(resource, objects))

    async def _put(self, resource, objects):
        for made in objects:
            key = (resource, made["metadata"].get("namespace", ""), made["metadata"]["name"])
            self.version += 1
            made = json.loads(json.dumps(made))
            made["metadata"]["resourceVersion"] = str(self.version)
            made["metadata"].setdefault("uid", f"uid-{key[2]}")
            self.log.append((self.version, resource, "MODIFIED" if key in self.objects else "ADDED", made, self.objects.get(key)))
            self.objects[key] = made
        self.written_at = time.monotonic_ns()
        await self._notify()

    def delete(self, resource, name, namespace="llm"):
        self.hub.run(self._delete(resource, name, namespace))

    async def _delete(self, resource, name, namespace):
        gone = self.objects.pop((resource, namespace, name))
        self.version += 1
        gone = gone | {"metadata": gone["metadata"] | {"resourceVersion": str(self.version)}}
        self.log.append((self.version, resource, "DELETED", gone, gone))
        await self._notify()

    async def _notify(self):
        async with self._changed:
            self._changed.notify_all()

    def wake(self):
        self.hub.run(self._notify())

    def cut(self, junk=b"", plural=None):
        """Cuts every connection, or the watches of one resource, or sends them some bytes instead if there are any."""
        self.hub.run(self._cut(junk, plural))

    async def _cut(self, junk=b"", plural=None):
        for writer in list(self._writers):
            if plural and self._watched.get(writer) != plural:
                continue
            if junk:
                with contextlib.suppress(OSError):
                    writer.write(b"%x\r\n%s\r\n" % (len(junk), junk))
                    await writer.drain()
            else:
                writer.transport.abort()

    def stop(self):
        self.hub.run(self._stop())

    async def _stop(self):
        if self._server:
            self._server.close()
            self._server = None
        tasks = list(self._writers.values())
        await self._cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def start(self):
        """After `stop`: at the same port, with an empty watch cache."""
        self.oldest = self.version
        self.hub.run(self._listen())

    def kubeconfig(self, path, token="t", **user):
        cluster = {"server": self.url}
        if self.ssl:
            cluster["certificate-authority"] = str(user.pop("authority"))
        path.write_text(json.dumps({
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": ({"token": token} if token else {}) | user}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": "llm"}}],
        }))  # fmt: skip
        return path

    # What a client sees

    async def _connection(self, reader, writer):
        self._writers[writer] = asyncio.current_task()
        line = FaultyLine(writer, self.faults)
        try:
            while await self._request(reader, line):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.pop(writer, None)
            self._watched.pop(writer, None)
            writer.close()

    async def _request(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        target = head.split(" ", 2)[1]
        fields = dict(re.findall(r"^([^:\r\n]+):[ \t]*([^\r\n]*)", head, re.MULTILINE))
        path, _, text = target.partition("?")
        query = {name: values[0] for name, values in urllib.parse.parse_qs(text).items()}
        self.requests.append((path, query))
        writer.begin_answer()
        parts = path.split("/")
        plural = parts[-1]
        namespace = parts[parts.index("namespaces") + 1] if "namespaces" in parts else None
        token = {k.lower(): v for k, v in fields.items()}.get("authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            return await self._status(writer, 401, "Unauthorized")
        if plural in self.forbidden or not self._permits(plural, query):
            self.refused.append(path)
            return await self._status(writer, 403, f'{plural} is forbidden: User "swiftlet" cannot list resource "{plural}"')
        if plural in self.unserved:
            return await self._status(writer, 404, "the server could not find the requested resource")
        scripted = self.script(path, query) if self.script else None
        if scripted is not None:
            return await self._answer(writer, *scripted)
        chosen = _selector(query, namespace)
        if "watch" in query:
            return await self._watch(writer, plural, query, chosen)
        return await self._list(writer, plural, query, chosen)

    def _permits(self, plural, query):
        """A rule with names allows lists and watches of one of them, by the field selector."""
        if self.permitted is None:
            return True
        names = self.permitted.get(plural, set())
        return names is None or query.get("fieldSelector", "").removeprefix("metadata.name=") in names

    async def _answer(self, writer, status, body, fields=""):
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        return True

    async def _status(self, writer, code, message, fields=""):
        body = json.dumps({"kind": "Status", "status": "Failure", "message": message, "code": code}).encode()
        return await self._answer(writer, code, body, fields)

    def _present(self, plural, chosen):
        return [made for key, made in sorted(self.objects.items()) if key[0] == plural and chosen(made)]

    async def _list(self, writer, plural, query, chosen):
        selection = (plural, query.get("labelSelector"), query.get("fieldSelector"))
        version, start = self.version, 0
        if token := query.get("continue"):
            version, start = map(int, token.split(":"))
            if version < self.oldest or (version, *selection) not in self.pages:
                return await self._status(writer, 410, "The provided continue parameter is too old")
        else:
            self.pages = {key: items for key, items in self.pages.items() if key[0] > version - 1000}
            self.pages[(version, *selection)] = self._present(plural, chosen)
        items = self.pages[(version, *selection)]
        metadata = {"resourceVersion": str(version)}
        limit = int(query.get("limit", 0)) or len(items)
        if len(items) > start + limit:
            metadata["continue"] = f"{version}:{start + limit}"
        items = items[start : start + limit]
        return await self._answer(writer, 200, json.dumps({"metadata": metadata, "items": items}).encode())

    def _is_stalled(self, plural):
        return self.stalled is True or bool(self.stalled) and plural in self.stalled

    async def _watch(self, writer, plural, query, chosen):
        initial = query.get("sendInitialEvents") == "true"
        if initial and not self.streams_lists:
            return await self._status(writer, 422, "sendInitialEvents is forbidden for watch")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._watched[writer.writer] = plural

        def event(kind, made):
            line = json.dumps({"type": kind, "object": made}).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))

        if initial:
            told = self.version
            for made in self._present(plural, chosen):
                event("ADDED", made)
            event("BOOKMARK", {"metadata": {"resourceVersion": str(told), "annotations": {"k8s.io/initial-events-end": "true"}}})
        else:
            told = int(query["resourceVersion"])
            if told < self.oldest:
                event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": f"too old resource version: {told}"})
                writer.write(b"0\r\n\r\n")
                await writer.drain()
                return True
        place = 0
        while True:
            while place < len(self.log) and not self._is_stalled(plural):
                version, resource, kind, made, before = self.log[place]
                place += 1
                if version <= told or resource != plural:
                    continue
                if chosen(made):
                    event(kind, made)
                elif before is not None and chosen(before):
                    event("DELETED", before | {"metadata": before["metadata"] | {"resourceVersion": str(version)}})
            await writer.drain()
            async with self._changed:
                if place == len(self.log) or self._is_stalled(plural):
                    await self._changed.wait()


def _selector(query, namespace):
    tests = []
    for part in re.split(r",(?![^(]*\))", query.get("labelSelector", "")):
        if match := re.fullmatch(r"(\S+) in \((.*)\)", part):
            tests.append(lambda labels, k=match[1], v=set(match[2].split(",")): labels.get(k) in v)
        elif "=" in part:
            key, value = part.split("=")
            tests.append(lambda labels, k=key, v=value: labels.get(k) == v)
        elif part:
            tests.append(lambda labels, k=part: k in labels)
    name = query.get("fieldSelector", "").removeprefix("metadata.name=")

    def chosen(made):
        metadata = made["metadata"]
        labels = metadata.get("labels", {})
        if namespace is not None and metadata.get("namespace") != namespace:
            return False
        return (not name or metadata["name"] == name) and all(test(labels) for test in tests)

    return chosen
