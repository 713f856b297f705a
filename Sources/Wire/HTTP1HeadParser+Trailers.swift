/// The fields behind a chunked body (RFC 9112, 7.1.2): parsed as a block, bounded as a head is.
extension HTTP1HeadParser {
    /// Looks for the end of a trailer section at the start of `input`: its length with the blank line, which is 2 when it holds no
    /// field, nil when more bytes are needed.
    public func measureTrailers(_ input: UnsafeRawBufferPointer) throws(HTTP1Defect) -> Int? {
        guard input.first == 13 else { return try measureHead(input) }
        guard input.count >= 2 else { return nil }
        guard input[1] == 10 else { throw .malformed }
        return 2
    }

    /// Parses a trailer section of exactly these bytes into `block`.
    public func parseTrailers(_ input: UnsafeRawBufferPointer, into block: HeaderBlock) throws(HTTP1Defect) {
        guard !input.isEmpty else { throw .malformed }
        block.adopt(input)
        var scanner = HTTP1HeadScanner(input)
        try scanner.fields(into: block, atMost: maximumFields)
    }
}
