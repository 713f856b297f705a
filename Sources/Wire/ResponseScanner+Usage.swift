import Glibc

extension ResponseScanner {
    /// What an answer used, in tokens, whatever the API calls it.
    public struct Usage: Equatable, Sendable {
        /// All prompt tokens, cached ones included.
        public var promptTokens: Int
        /// Prompt tokens that came from the engine's cache; nil when the engine does not say.
        public var cachedTokens: Int?
        public var completionTokens: Int

        public init(promptTokens: Int, cachedTokens: Int?, completionTokens: Int) {
            self.promptTokens = promptTokens
            self.cachedTokens = cachedTokens
            self.completionTokens = completionTokens
        }
    }

    /// Finds `"usage":{…}` in a stream of JSON bytes, wherever it stands, and reads its numbers byte by byte, so that nothing is held.
    ///
    /// The key cannot be mistaken for text: inside a JSON string its quotes would be escaped.
    struct UsageReader {
        private enum State {
            /// Looking for the key; so many of its bytes ended the last read.
            case searching(matched: Int)
            case colon
            case brace
            case object
        }

        private var state = State.searching(matched: 0)
        private var object = UsageObject()
        private(set) var usage: Usage?

        /// The key with its quotes. No proper prefix of it recurs inside, which is what lets a failed match resume where it failed.
        private static let key: StaticString = "\"usage\""
        private static let keyCount = 7

        mutating func consume(_ bytes: UnsafeRawBufferPointer) {
            var at = 0
            while at < bytes.count {
                switch state {
                case .searching(let matched):
                    at = search(bytes, from: at, matched: matched)
                case .colon:
                    step(bytes[at], wanted: UInt8(ascii: ":"), next: .brace)
                    at += 1
                case .brace:
                    step(bytes[at], wanted: UInt8(ascii: "{"), next: .object)
                    at += 1
                case .object:
                    at = readObject(bytes, from: at)
                }
            }
        }

        private mutating func step(_ byte: UInt8, wanted: UInt8, next: State) {
            if byte == wanted {
                state = next
                object = UsageObject()
            } else if byte != 0x20, !(byte >= 0x09 && byte <= 0x0D) {
                state = .searching(matched: 0)
            }
        }

        private mutating func readObject(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int {
            // A copy is known to be out of the bytes' reach, and stays in registers.
            var object = object
            defer { self.object = object }
            var at = start
            while at < bytes.count {
                if bytes[at] == UInt8(ascii: "\""), let length = object.takeString(bytes, after: at) {
                    at += length + 2
                    continue
                }
                let isOpen = object.consume(bytes[at])
                at += 1
                if !isOpen {
                    usage = object.merged(into: usage)
                    state = .searching(matched: 0)
                    break
                }
            }
            return at
        }

        /// Returns where to go on; the state says with what.
        private mutating func search(_ bytes: UnsafeRawBufferPointer, from start: Int, matched: Int) -> Int {
            let key = Self.key.utf8Start
            var at = start
            if matched > 0 {
                var matched = matched
                while matched < Self.keyCount, at < bytes.count, bytes[at] == key[matched] {
                    matched += 1
                    at += 1
                }
                if matched < Self.keyCount, at == bytes.count {
                    state = .searching(matched: matched)
                    return at
                }
                state = matched == Self.keyCount ? .colon : .searching(matched: 0)
                return at
            }
            if let found = Self.find(bytes, from: at) {
                state = .colon
                return found + Self.keyCount
            }
            for length in stride(from: min(Self.keyCount - 1, bytes.count - at), to: 0, by: -1)
            where Self.hasKey(bytes, at: bytes.count - length, count: length) {
                state = .searching(matched: length)
                break
            }
            return bytes.count
        }

        private static func hasKey(_ bytes: UnsafeRawBufferPointer, at start: Int, count: Int) -> Bool {
            let key = key.utf8Start
            for offset in 0..<count where bytes[start + offset] != key[offset] { return false }
            return true
        }

        /// The first whole key. Compares 16 places at once by the key's `u` and `g`, a pair that JSON rarely has at this distance; `memmem`
        /// measured three times as long.
        private static func find(_ bytes: UnsafeRawBufferPointer, from start: Int) -> Int? {
            guard let base = bytes.baseAddress else { return nil }
            let letterU = SIMD16<UInt8>(repeating: UInt8(ascii: "u"))
            let letterG = SIMD16<UInt8>(repeating: UInt8(ascii: "g"))
            var at = start
            while at + 32 + keyCount <= bytes.count {
                let first = base + at
                let low =
                    (first.loadUnaligned(fromByteOffset: 1, as: SIMD16<UInt8>.self) .== letterU)
                    .& (first.loadUnaligned(fromByteOffset: 4, as: SIMD16<UInt8>.self) .== letterG)
                let high =
                    (first.loadUnaligned(fromByteOffset: 17, as: SIMD16<UInt8>.self) .== letterU)
                    .& (first.loadUnaligned(fromByteOffset: 20, as: SIMD16<UInt8>.self) .== letterG)
                if any(low .| high), let found = scan(bytes, at..<(at + 32)) { return found }
                at += 32
            }
            return scan(bytes, at..<max(at, bytes.count - keyCount + 1))
        }

        private static func scan(_ bytes: UnsafeRawBufferPointer, _ places: Range<Int>) -> Int? {
            for at in places where bytes[at] == UInt8(ascii: "\"") && hasKey(bytes, at: at, count: keyCount) { return at }
            return nil
        }
    }
}

/// One usage object, read byte by byte after its opening brace.
private struct UsageObject {
    private static let largestNumber = 1 << 48
    private static let deepestNesting = 16

    private var depth = 1
    private var inString = false
    private var isEscaped = false
    /// FNV-1a of the string read last, and of the key whose value is being read (0: none).
    private var stringHash: UInt64 = 0
    private var keyHash: UInt64 = 0
    private var number = -1
    private var isInteger = true

    private var promptTokens: Int?
    private var inputTokens: Int?
    private var cachedTokens: Int?
    private var cacheReadTokens: Int?
    private var cacheCreationTokens: Int?
    private var completionTokens: Int?

    /// Takes the string that the quote at this place opens, when all of it is here and plain, as nearly all are; returns its length.
    mutating func takeString(_ bytes: UnsafeRawBufferPointer, after quote: Int) -> Int? {
        guard !inString, let base = bytes.baseAddress else { return nil }
        let start = base + quote + 1
        let rest = bytes.count - quote - 1
        guard rest > 0, let end = memchr(start, 0x22, rest) else { return nil }
        let length = UnsafeRawPointer(end) - start
        let hash = FNV.hash(ofName: UnsafeRawBufferPointer(start: start, count: length))
        // A name in use has no backslash.
        guard hash != FNV.unused || length == 0 || memchr(start, 0x5C, length) == nil else { return nil }
        stringHash = hash
        return length
    }

    /// Returns whether the object goes on.
    mutating func consume(_ byte: UInt8) -> Bool {
        if inString {
            consumeInString(byte)
            return true
        }
        switch byte {
        case UInt8(ascii: "\""):
            inString = true
            stringHash = FNV.offset
        case UInt8(ascii: ":"):
            keyHash = stringHash
        case UInt8(ascii: "0")...UInt8(ascii: "9"):
            number = min(max(number, 0) * 10 + Int(byte - UInt8(ascii: "0")), Self.largestNumber)
        case UInt8(ascii: ","):
            endValue()
        case UInt8(ascii: "{"), UInt8(ascii: "["):
            endValue()
            depth += 1
            return depth <= Self.deepestNesting
        case UInt8(ascii: "}"), UInt8(ascii: "]"):
            endValue()
            depth -= 1
            return depth > 0
        case UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "e"), UInt8(ascii: "E"):
            isInteger = false
        default:
            break
        }
        return true
    }

    private mutating func consumeInString(_ byte: UInt8) {
        if isEscaped {
            isEscaped = false
        } else if byte == UInt8(ascii: "\\") {
            isEscaped = true
        } else if byte == UInt8(ascii: "\"") {
            inString = false
        }
        stringHash = FNV.add(byte, to: stringHash, unless: !inString)
    }

    private mutating func endValue() {
        defer {
            keyHash = 0
            number = -1
            isInteger = true
        }
        guard keyHash != 0, number >= 0, isInteger else { return }
        switch (keyHash, depth) {
        case (FNV.promptTokens, 1): promptTokens = number
        case (FNV.inputTokens, 1): inputTokens = number
        case (FNV.completionTokens, 1), (FNV.outputTokens, 1): completionTokens = number
        case (FNV.cacheReadInputTokens, 1): cacheReadTokens = number
        case (FNV.cacheCreationInputTokens, 1): cacheCreationTokens = number
        case (FNV.cachedTokens, 2): cachedTokens = number
        default: break
        }
    }

    /// A report without prompt tokens (the messages API's last one may tell the output alone) completes the one before it.
    func merged(into last: ResponseScanner.Usage?) -> ResponseScanner.Usage? {
        if let promptTokens {
            return .init(promptTokens: promptTokens, cachedTokens: cachedTokens, completionTokens: completionTokens ?? 0)
        }
        if let inputTokens {
            // The messages API counts cached and newly cached tokens beside `input_tokens`, the responses API within.
            return .init(
                promptTokens: inputTokens + (cacheReadTokens ?? 0) + (cacheCreationTokens ?? 0),
                cachedTokens: cacheReadTokens ?? cachedTokens, completionTokens: completionTokens ?? 0)
        }
        guard var usage = last, let completionTokens else { return last }
        usage.completionTokens = completionTokens
        return usage
    }
}

/// Field names by 64-bit FNV-1a, so that a name split over two reads needs no buffer.
private enum FNV {
    static let offset: UInt64 = 0xCBF2_9CE4_8422_2325
    /// The hash of no name in use.
    static let unused: UInt64 = 1

    // Written out, so that to compare with them costs no load. The tests cut answers at every byte, and so compare both ways to them.
    static let promptTokens: UInt64 = 0x0D70_0B4A_4E95_C08E  // prompt_tokens
    static let inputTokens: UInt64 = 0xB515_8BE5_A9BB_D92E  // input_tokens
    static let completionTokens: UInt64 = 0xB301_C1ED_A403_926A  // completion_tokens
    static let outputTokens: UInt64 = 0x72E6_01D5_8DDE_C77F  // output_tokens
    static let cachedTokens: UInt64 = 0xC161_E80E_F0ED_9236  // cached_tokens
    static let cacheReadInputTokens: UInt64 = 0xA8E4_F1FD_7E5B_4A6C  // cache_read_input_tokens
    static let cacheCreationInputTokens: UInt64 = 0x42F7_DD00_B60F_8C7F  // cache_creation_input_tokens

    static func add(_ byte: UInt8, to hash: UInt64, unless isSkipped: Bool) -> UInt64 {
        isSkipped ? hash : (hash ^ UInt64(byte)) &* 0x100_0000_01B3
    }

    /// The hash of a name in use; of any other `unused`.
    static func hash(ofName name: UnsafeRawBufferPointer) -> UInt64 {
        switch name.count {
        case 12: name.equals("input_tokens") ? inputTokens : unused
        case 13:
            name.equals("prompt_tokens")
                ? promptTokens : name.equals("output_tokens") ? outputTokens : name.equals("cached_tokens") ? cachedTokens : unused
        case 17: name.equals("completion_tokens") ? completionTokens : unused
        case 23: name.equals("cache_read_input_tokens") ? cacheReadInputTokens : unused
        case 27: name.equals("cache_creation_input_tokens") ? cacheCreationInputTokens : unused
        default: unused
        }
    }
}
