import CHTTPParser
import Testing

@testable import Wire

/// Every head that our parser takes, http_parser takes too and reads alike: method, target, fields, framing. The other way round it
/// need not hold; we are the stricter.
@Suite struct SecondOpinionTests {
    private static let requests = [
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a.b:80\r\nContent-Type: application/json\r\nContent-Length: 120\r\n\r\n",
        "GET /v1/models?a=b&c=%20 HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, TE\r\nTE: trailers\r\nX:\t y \t\r\n\r\n",
        "PUT http://h:1/x HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nEmpty:\r\n\r\n",
        "OPTIONS * HTTP/1.0\r\nAuthorization: Bearer sk-0123456789abcdef0123456789abcdef\r\n\r\n",
    ]
    private static let responses = [
        "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 404\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "HTTP/1.0 503 No Way\r\nRetry-After: 1\r\n\r\n",
    ]

    @Test(arguments: UInt64(1)...8)
    func whatWeTakeReadsAlike(seed: UInt64) {
        var random = SplitMix64(state: seed)
        var taken = 0
        for round in 0..<4_000 {
            let isRequest = round & 1 == 0
            let samples = isRequest ? Self.requests : Self.responses
            var head = Array(samples[Int(random.next() % UInt64(samples.count))].utf8)
            for _ in 0..<(random.next() % 4) { mutate(&head, &random) }
            if compare(head, isRequest: isRequest) { taken += 1 }
        }
        // Enough mutants survive for the comparison to mean something.
        #expect(taken > 800)
    }

    private func mutate(_ head: inout [UInt8], _ random: inout SplitMix64) {
        let special: [UInt8] = [0, 9, 10, 13, 32, 34, 43, 44, 45, 48, 58, 59, 65, 127, 128, 255]
        let place = Int(random.next() % UInt64(head.count))
        switch random.next() % 4 {
        case 0: head[place] = special[Int(random.next() % UInt64(special.count))]
        case 1: head.insert(special[Int(random.next() % UInt64(special.count))], at: place)
        case 2: head.remove(at: place)
        default:
            let end = min(head.count, place + Int(random.next() % 24))
            head.insert(contentsOf: head[place..<end], at: place)
        }
        if head.isEmpty { head = [10] }
    }

    /// Returns whether our parser takes it.
    private func compare(_ head: [UInt8], isRequest: Bool) -> Bool {
        let parser = HTTP1HeadParser(maximumHeadBytes: 4_096, maximumFields: 100)
        let request = RequestHead()
        let response = ResponseHead()
        return head.withUnsafeBytes { bytes -> Bool in
            guard let length = try? parser.measureHead(bytes) else { return false }
            let exact = UnsafeRawBufferPointer(rebasing: bytes[..<length])
            let framing =
                isRequest
                ? try? parser.parseRequest(exact, into: request) : try? parser.parseResponse(exact, into: response, toHead: false).framing
            guard let framing else { return false }
            var reading = swl_head_reading()
            let text = String(decoding: exact, as: UTF8.self).debugDescription
            guard read(&reading, exact, isRequest: isRequest) else {
                // It knows a closed list of methods.
                #expect(isRequest && request.method == .other, "\(text)")
                return true
            }
            let headers = isRequest ? request.headers : response.headers
            #expect(fields(headers) == readFields(reading, exact), "\(text)")
            // A tab may follow a value (RFC 9110, 5.6.3); http_parser takes the coding before it for an unknown one.
            if !text.contains("\\t\\r\\n") {
                #expect((framing == .chunked) == (reading.parser.flags & F_CHUNKED.rawValue != 0), "\(text)")
            }
            if case .length(let length) = framing { #expect(UInt64(length) == reading.parser.content_length, "\(text)") }
            if isRequest {
                let target = slice(exact, reading.target_offset, reading.target_length)
                // An absolute target without a path asks for "/".
                #expect(target.hasSuffix(WireTests.text(request.target) ?? "?") || request.target.equals("/"), "\(text)")
            } else {
                #expect(response.status == Int(reading.parser.status_code), "\(text)")
            }
            return true
        }
    }

    private func read(_ reading: inout swl_head_reading, _ bytes: UnsafeRawBufferPointer, isRequest: Bool) -> Bool {
        let type = isRequest ? HTTP_REQUEST : HTTP_RESPONSE
        return swl_read_head(&reading, CInt(type.rawValue), bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count) == 1
    }

    private func readFields(_ reading: swl_head_reading, _ bytes: UnsafeRawBufferPointer) -> [[String]] {
        withUnsafeBytes(of: reading.fields) { storage in
            storage.bindMemory(to: swl_head_field.self).prefix(Int(reading.field_count)).map { field in
                let value = slice(bytes, field.value_offset, field.value_length)
                let end = value.utf8.reversed().drop { $0 == 32 || $0 == 9 }.count
                return [slice(bytes, field.name_offset, field.name_length), String(decoding: Array(value.utf8).prefix(end), as: UTF8.self)]
            }
        }
    }

    private func slice(_ bytes: UnsafeRawBufferPointer, _ offset: UInt32, _ length: UInt32) -> String {
        String(decoding: bytes[Int(offset)..<Int(offset + length)], as: UTF8.self)
    }
}
