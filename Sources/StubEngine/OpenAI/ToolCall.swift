import EngineModel

/// A reply that calls a function, in the words of the models whose calls vLLM's parser `hermes` reads.
struct ToolCall {
    struct Function {
        let name: String
        let parameters: JSONValue?
    }

    let name: String
    /// As JSON.
    let arguments: String
    /// `chatcmpl-tool-` and sixteen hexadecimal digits.
    let id: String
    /// The client named the function, and is not told that the reply ends because of it.
    let isNamed: Bool
    let script: ReplyScript

    init(of function: Function, isNamed: Bool, seed: UInt64) {
        var sampler = SchemaSampler(seed: seed)
        name = function.name
        arguments = sampler.object(of: function.parameters)
        let digits = String(seed, radix: 16)
        id = "chatcmpl-tool-" + String(repeating: "0", count: 16 - digits.count) + digits
        self.isNamed = isNamed
        script = ReplyScript([
            "<tool_call>\n{\"name\": \(JSONText.string(name)), \"arguments\": ", arguments, "}\n</tool_call>",
        ])
    }

    /// Tokens after which the function's name is known.
    var nameTokens: Int { script.counts[0] }
    /// The tokens that are arguments.
    var argumentTokens: Range<Int> { script.counts[0]..<script.counts[0] + script.counts[1] }

    /// As in a message; `arguments` nil leaves them out, as the first of a stream's pieces does.
    func json(arguments: String?, index: Int?) -> String {
        let place = index.map { "\"index\":\($0)," } ?? ""
        let text = arguments.map { ",\"arguments\":\(JSONText.string($0))" } ?? ""
        return "{\"id\":\"\(id)\",\"type\":\"function\",\(place)\"function\":{\"name\":\(JSONText.string(name))\(text)}}"
    }
}

/// Which function a request wants to be called.
enum ToolChoice {
    case none
    /// The model calls one or not: by the seed, every second reply does.
    case automatic([ToolCall.Function])
    case required([ToolCall.Function])
    case named(ToolCall.Function)

    /// - Throws: what vLLM says to a choice that fits no tool.
    init(choice: JSONValue?, tools: JSONValue?) throws(WireError) {
        let functions = Self.functions(in: tools)
        switch choice {
        case nil, .null, .string("none"): self = .none
        case .string("auto"), .string("required"):
            guard !functions.isEmpty else { throw Self.wrong("When using `tool_choice`, `tools` must be set.") }
            self = choice == .string("auto") ? .automatic(functions) : .required(functions)
        case .object(let fields):
            guard !functions.isEmpty else { throw Self.wrong("When using `tool_choice`, `tools` must be set.") }
            guard case .string(let name)? = fields["function"]?["name"], let function = functions.first(where: { $0.name == name }) else {
                throw Self.wrong("The tool specified in `tool_choice` does not match any of the specified `tools`")
            }
            self = .named(function)
        default: throw Self.wrong("Only named tools, \"none\", \"auto\" or \"required\" are supported.")
        }
    }

    /// What the reply is; nil: no call.
    /// - Parameter seed: the request's.
    func content(seed: UInt64) -> ReplyContent? {
        switch self {
        case .none: nil
        case .automatic(let functions): seed & 1 == 0 ? .call(functions, isNamed: false) : nil
        case .required(let functions): .call(functions, isNamed: false)
        case .named(let function): .call([function], isNamed: true)
        }
    }

    private static func functions(in tools: JSONValue?) -> [ToolCall.Function] {
        guard case .array(let tools)? = tools else { return [] }
        return tools.compactMap { tool in
            guard let function = tool["function"], case .string(let name)? = function["name"],
                name.utf8.count <= StubLimits.toolNameBytes
            else { return nil }
            let parameters = function["parameters"].flatMap { $0.text.utf8.count <= StubLimits.toolSchemaBytes ? $0 : nil }
            return ToolCall.Function(name: name, parameters: parameters)
        }
    }

    private static func wrong(_ message: String) -> WireError {
        .validation(kind: "value_error", location: "body", reason: "Value error, \(message)")
    }
}

/// Makes values that fit a JSON Schema, as far as its types, enumerations and ranges of whole numbers go.
struct SchemaSampler {
    private var state: UInt64
    /// Values that may still be made, and how deep they may lie: the schema is the client's.
    private var left = 256
    private static let deepest = 16

    init(seed: UInt64) { state = seed }

    /// An object; an empty one when the schema is of something else.
    mutating func object(of schema: JSONValue?) -> String {
        guard case .object(let properties)? = schema?["properties"] else { return "{}" }
        return object(properties, depth: 0)
    }

    private mutating func object(_ properties: [String: JSONValue], depth: Int) -> String {
        var fields: [String] = []
        for (name, schema) in properties.sorted(by: { $0.key < $1.key }) where left > 0 {
            left -= 1
            fields.append("\(JSONText.string(name)): \(value(of: schema, depth: depth + 1))")
        }
        return "{" + fields.joined(separator: ", ") + "}"
    }

    private mutating func value(of schema: JSONValue, depth: Int) -> String {
        if let constant = schema["const"] { return constant.text }
        if case .array(let values)? = schema["enum"], !values.isEmpty { return values[Int(draw(UInt64(values.count)))].text }
        for key in ["anyOf", "oneOf"] {
            guard depth < Self.deepest, case .array(let kinds)? = schema[key], let kind = kinds.first else { continue }
            return value(of: kind, depth: depth + 1)
        }
        switch Self.type(of: schema) {
        case "boolean": return draw(2) == 0 ? "false" : "true"
        case "null": return "null"
        case "integer": return "\(integer(of: schema))"
        case "number": return "\(integer(of: schema)).5"
        case "array":
            guard depth < Self.deepest, left > 0, let items = schema["items"] else { return "[]" }
            left -= 1
            return "[\(value(of: items, depth: depth + 1))]"
        case "object":
            guard depth < Self.deepest, case .object(let properties)? = schema["properties"] else { return "{}" }
            return object(properties, depth: depth)
        default: return JSONText.string(words())
        }
    }

    private static func type(of schema: JSONValue) -> String {
        switch schema["type"] {
        case .string(let type)?: return type
        case .array(let types)?: if case .string(let type)? = types.first { return type }
        default: break
        }
        return schema["properties"] == nil ? "string" : "object"
    }

    private mutating func integer(of schema: JSONValue) -> Int {
        func bound(_ key: String) -> Int? {
            guard case .number(let number)? = schema[key], abs(number) <= 1e15 else { return nil }
            return Int(number)
        }
        let lowest = bound("minimum") ?? min(0, bound("maximum") ?? 0)
        let highest = max(lowest, bound("maximum") ?? lowest + 100)
        return lowest + Int(draw(UInt64(highest - lowest) + 1))
    }

    private mutating func words() -> String {
        var reply = Reply(seed: draw(.max), continuesText: false)
        var text: [UInt8] = []
        for _ in 0..<3 { text += reply.next().text(of: nil) }
        return String(decoding: text, as: UTF8.self)
    }

    /// SplitMix64, below `bound`.
    private mutating func draw(_ bound: UInt64) -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return (mixed ^ (mixed >> 31)) % bound
    }
}
