extension ResponseScanner {
    /// Follows the messages that answer an `InferenceCall`: counts those that carry tokens, and adds up what they say was used.
    ///
    /// A message that is here whole, as nearly all are, is read where it lies. One that comes in pieces is read byte by byte, so that nothing is
    /// held, and what its fields hold is jumped over. A message that is compressed cannot be read, and is taken to carry tokens; a malformed one
    /// carries none.
    struct CallReader {
        private enum State {
            case key, number
            case length
            /// Inside a field of which nothing is wanted.
            case skipping(Int)
            case unreadable
        }

        /// The message inside the message that is being read.
        private enum Part { case none, chunk, complete, inference }

        private enum Field {
            // GenerateResponse, GenerateStreamChunk, GenerateComplete.
            static let chunk = 1, complete = 2, tokens = 1
            static let chunkPrompt = 2, chunkCompletion = 3, chunkCached = 4
            static let completePrompt = 3, completeCompletion = 4, completeCached = 5
            // ModelInferResponse, ModelStreamInferResponse.
            static let outputs = 5, rawOutputs = 6, errorMessage = 1, inference = 2
        }

        private static let largestCount: UInt64 = 1 << 32

        private let call: InferenceCall
        private var splitter = GRPCMessageSplitter(maximumMessageBytes: .max)
        private var state = State.key
        private var part = Part.none
        /// Bytes of the part that are still to come.
        private var partBytes = 0
        private var field = 0
        private var value: UInt64 = 0
        private var shift: UInt64 = 0
        // What the present message says.
        private var message = Message()

        private(set) var events = 0
        private(set) var hasTokens = false
        private var promptTokens = 0
        private var cachedTokens: Int?
        private var completionTokens = 0

        private struct Message {
            var part = Part.none
            var carriesTokens = false
            var isError = false
            var prompt = 0
            var cached = 0
            var completion = 0
        }

        init(_ call: InferenceCall) { self.call = call }

        var usage: Usage? {
            guard promptTokens > 0 else { return nil }
            return Usage(promptTokens: promptTokens, cachedTokens: cachedTokens, completionTokens: completionTokens)
        }

        mutating func consume(_ bytes: UnsafeRawBufferPointer) {
            var rest = bytes
            while splitter.isAtBoundary, let whole = Self.wholeMessage(at: rest) {
                rest = UnsafeRawBufferPointer(rebasing: rest[(GRPCFraming.prefixBytes &+ whole.count)...])
                read(whole: whole)
            }
            guard !rest.isEmpty else { return }
            while true {
                switch splitter.next(&rest) {
                case .message(let count, let isCompressed): begin(count, isCompressed: isCompressed)
                case .payload(let piece, let isLast):
                    read(piece)
                    if isLast { end() }
                case .needsMore, .failed: return
                }
            }
        }

        // MARK: Whole messages

        private static func wholeMessage(at bytes: UnsafeRawBufferPointer) -> UnsafeRawBufferPointer? {
            guard let end = GRPCFraming.firstMessageEnd(bytes), bytes[0] == 0, end <= bytes.count else { return nil }
            return UnsafeRawBufferPointer(rebasing: bytes[GRPCFraming.prefixBytes..<end])
        }

        private mutating func read(whole bytes: UnsafeRawBufferPointer) {
            message = Message()
            part = .none
            var fields = ProtobufReader(bytes)
            while let kind = fields.advance() {
                field = fields.field
                switch kind {
                case .number: numberRead(fields.number)
                case .bytes:
                    guard let inner = bytesRead(fields.content.count) else { continue }
                    message.part = inner
                    part = inner
                    guard readPart(fields.content) else { return }
                    part = .none
                case .fixed: break
                }
            }
            if !fields.isMalformed { count() }
        }

        private mutating func readPart(_ bytes: UnsafeRawBufferPointer) -> Bool {
            var fields = ProtobufReader(bytes)
            while let kind = fields.advance() {
                field = fields.field
                switch kind {
                case .number: numberRead(fields.number)
                case .bytes: _ = bytesRead(fields.content.count)
                case .fixed: break
                }
            }
            return !fields.isMalformed
        }

        // MARK: Messages in pieces

        private mutating func begin(_ count: Int, isCompressed: Bool) {
            state = isCompressed ? .unreadable : .key
            part = .none
            partBytes = 0
            (value, shift) = (0, 0)
            message = Message(carriesTokens: isCompressed && count > 0)
        }

        private mutating func end() {
            switch state {
            case .key where shift == 0 && partBytes == 0: break
            // Compressed, as far as it was taken to carry tokens.
            case .unreadable: break
            default: return
            }
            count()
        }

        /// What a message says counts once all of it has been read.
        private mutating func count() {
            if message.carriesTokens, !message.isError {
                hasTokens = true
                // What completes a stream repeats its last tokens; alone it tells all.
                if message.part != .complete { events &+= 1 }
            }
            if message.prompt > 0 {
                promptTokens = message.prompt
                // Of several replies the first one had the prompt to compute, and the others find it.
                cachedTokens = cachedTokens ?? message.cached
            }
            if message.part != .complete || events == 0 { completionTokens &+= message.completion }
        }

        // MARK: Fields

        private mutating func read(_ bytes: UnsafeRawBufferPointer) {
            // A copy is known to be out of the bytes' reach, and stays in registers.
            var reader = self
            var at = 0
            while at < bytes.count {
                switch reader.state {
                case .skipping(let count):
                    let taken = min(count, bytes.count &- at)
                    at &+= taken
                    reader.state = taken == count ? .key : .skipping(count &- taken)
                    reader.leave(taken)
                    reader.closePart()
                case .unreadable: at = bytes.count
                case .key, .number, .length:
                    reader.take(bytes[at])
                    reader.closePart()
                    at &+= 1
                }
            }
            self = reader
        }

        /// So many bytes are behind.
        private mutating func leave(_ count: Int) {
            if part != .none { partBytes &-= count }
        }

        /// A part ends where a field of it does.
        private mutating func closePart() {
            guard part != .none, partBytes <= 0 else { return }
            if case .key = state, partBytes == 0, shift == 0 { part = .none } else { giveUp() }
        }

        private mutating func giveUp() {
            state = .unreadable
            part = .none
            message = Message()
        }

        private mutating func take(_ byte: UInt8) {
            leave(1)
            value |= UInt64(byte & 0x7F) &<< shift
            guard byte < 0x80 else {
                shift &+= 7
                if shift > 63 { giveUp() }
                return
            }
            let whole = value
            (value, shift) = (0, 0)
            switch state {
            case .key: keyEnded(whole)
            case .number:
                state = .key
                numberRead(whole)
            case .length: lengthEnded(whole)
            case .skipping, .unreadable: break
            }
        }

        private mutating func keyEnded(_ key: UInt64) {
            guard key >> 3 > 0, key >> 3 < 1 << 29 else { return giveUp() }
            field = Int(key >> 3)
            switch key & 7 {
            case 0: state = .number
            case 1: state = .skipping(8)
            case 2: state = .length
            case 5: state = .skipping(4)
            default: giveUp()
            }
        }

        private mutating func numberRead(_ number: UInt64) {
            let count = Int(min(number, Self.largestCount))
            switch (part, field) {
            case (.chunk, Field.tokens), (.complete, Field.tokens): message.carriesTokens = true
            case (.chunk, Field.chunkPrompt), (.complete, Field.completePrompt): message.prompt = count
            case (.chunk, Field.chunkCompletion), (.complete, Field.completeCompletion): message.completion = count
            case (.chunk, Field.chunkCached), (.complete, Field.completeCached): message.cached = count
            default: break
            }
        }

        private mutating func lengthEnded(_ length: UInt64) {
            guard length <= Self.largestCount, part == .none || length <= UInt64(partBytes) else { return giveUp() }
            let count = Int(length)
            state = count == 0 ? .key : .skipping(count)
            guard let inner = bytesRead(count) else { return }
            message.part = inner
            guard count > 0 else { return }
            part = inner
            partBytes = count
            state = .key
        }

        /// - Returns: what part of the message the field is, when its own fields are to be read.
        private mutating func bytesRead(_ count: Int) -> Part? {
            switch (call, part, field) {
            case (.generate, .none, Field.chunk): return .chunk
            case (.generate, .none, Field.complete): return .complete
            case (.generate, .chunk, Field.tokens), (.generate, .complete, Field.tokens):
                if count > 0 { message.carriesTokens = true }
            case (.modelStreamInfer, .none, Field.inference): return .inference
            case (.modelStreamInfer, .none, Field.errorMessage): message.isError = count > 0
            case (.modelInfer, .none, Field.outputs), (.modelInfer, .none, Field.rawOutputs),
                (.modelStreamInfer, .inference, Field.outputs), (.modelStreamInfer, .inference, Field.rawOutputs):
                message.carriesTokens = true
            default: break
            }
            return nil
        }
    }
}
