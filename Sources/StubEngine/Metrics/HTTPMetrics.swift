import Glibc

/// The families of the FastAPI instrumentator, which stand beside vLLM's own.
struct HTTPMetrics {
    private struct Key: Hashable {
        let handler: String
        let method: String
        var status = ""
    }

    private struct Sizes {
        var count: UInt64 = 0
        var requestBytes = 0.0
        var responseBytes = 0.0
    }

    // Bounded: handlers are the stub's routes, methods those that HTTP names, statuses their hundreds.
    private var requests: [Key: UInt64] = [:]
    private var durations: [Key: Histogram] = [:]
    private var sizes: [String: Sizes] = [:]
    private var duration = Histogram(bounds: Histogram.httpDurations)

    /// One answer whose last byte has been written. `handler` is "none" for a path that is no route.
    mutating func answered(
        handler: String, method: String, status: Int, requestBytes: Int, responseBytes: Int, nanoseconds: UInt64
    ) {
        requests[Key(handler: handler, method: method, status: "\(status / 100)xx"), default: 0] += 1
        durations[Key(handler: handler, method: method), default: Histogram(bounds: Histogram.httpDurationsByHandler)]
            .observe(nanoseconds: nanoseconds)
        duration.observe(nanoseconds: nanoseconds)
        var size = sizes[handler] ?? Sizes()
        size.count += 1
        size.requestBytes += Double(requestBytes)
        size.responseBytes += Double(responseBytes)
        sizes[handler] = size
    }

    func write(to text: inout MetricsText) {
        let counted = requests.sorted { ($0.key.handler, $0.key.method, $0.key.status) < ($1.key.handler, $1.key.method, $1.key.status) }
        text.counter(
            "http_requests", "Requests by handler, method and status.",
            counted.map { ([("handler", $0.key.handler), ("method", $0.key.method), ("status", $0.key.status)], Double($0.value)) },
            of: .process)
        let sized = sizes.sorted { $0.key < $1.key }
        text.summary(
            "http_request_size_bytes", "Bytes of request bodies by handler.",
            sized.map { ([("handler", $0.key)], $0.value.count, $0.value.requestBytes) })
        text.summary(
            "http_response_size_bytes", "Bytes of response bodies by handler.",
            sized.map { ([("handler", $0.key)], $0.value.count, $0.value.responseBytes) })
        text.histogram("http_request_duration_highr_seconds", "Time of all requests.", duration, of: .process)
        let timed = durations.sorted { ($0.key.handler, $0.key.method) < ($1.key.handler, $1.key.method) }
        text.histogram(
            "http_request_duration_seconds", "Time of requests by handler.",
            timed.map { ([("handler", $0.key.handler), ("method", $0.key.method)], $0.value) }, of: .process)
    }
}

/// The families of Python's process collectors, with this process's own figures.
enum ProcessMetrics {
    static func write(to text: inout MetricsText, startSeconds: Double) {
        let generations = ["0", "1", "2"].map { ([("generation", $0)], 0.0) }
        text.plainCounter("python_gc_objects_collected_total", "Objects collected; none, this is no Python.", generations)
        text.plainCounter("python_gc_objects_uncollectable_total", "Objects that could not be collected.", generations)
        text.plainCounter("python_gc_collections_total", "Collections.", generations)
        let version = [("implementation", "CPython"), ("major", "3"), ("minor", "12"), ("patchlevel", "0"), ("version", "3.12.0")]
        text.gauge("python_info", "What vLLM would run on.", [(version, 1)], of: .process)
        let memory = pages()
        text.gauge("process_virtual_memory_bytes", "Virtual memory.", memory.virtual, of: .process)
        text.gauge("process_resident_memory_bytes", "Resident memory.", memory.resident, of: .process)
        text.gauge("process_start_time_seconds", "Unix time of the start.", startSeconds, of: .process)
        var usage = rusage()
        getrusage(0 /* RUSAGE_SELF */, &usage)
        let seconds =
            Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
        text.plainCounter("process_cpu_seconds_total", "CPU time, user and system.", [([], seconds)])
        text.gauge("process_open_fds", "Open descriptors.", Double(openDescriptors()), of: .process)
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        text.gauge("process_max_fds", "Descriptors that may be open.", Double(limit.rlim_cur), of: .process)
    }

    /// Sizes in bytes, from `/proc/self/statm`, which counts pages.
    private static func pages() -> (virtual: Double, resident: Double) {
        guard let file = fopen("/proc/self/statm", "r") else { return (0, 0) }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 256)
        guard fgets(&line, CInt(line.count), file) != nil else { return (0, 0) }
        let text = String(decoding: line.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        let numbers = text.split(separator: " ").prefix(2).compactMap { Double($0) }
        guard numbers.count == 2 else { return (0, 0) }
        let size = Double(sysconf(CInt(_SC_PAGESIZE)))
        return (numbers[0] * size, numbers[1] * size)
    }

    private static func openDescriptors() -> Int {
        guard let folder = opendir("/proc/self/fd") else { return 0 }
        defer { closedir(folder) }
        var count = 0
        while readdir(folder) != nil { count += 1 }
        // Without ".", ".." and the folder's own.
        return max(0, count - 3)
    }
}
