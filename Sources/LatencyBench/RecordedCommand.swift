/// A command line as reports keep it. Reports are passed on, and fields of requests are where keys and tokens are: their values stay out.
enum RecordedCommand {
    static func redacted(_ arguments: [String]) -> [String] {
        var isField = false
        return arguments.map { argument in
            if isField {
                isField = false
                return hidden(argument)
            }
            if argument == "-H" || argument == "--header" {
                isField = true
                return argument
            }
            for prefix in ["--header=", "-H=", "-H"] where argument.hasPrefix(prefix) {
                return prefix + hidden(String(argument.dropFirst(prefix.count)))
            }
            return argument
        }
    }

    /// The name alone is left of `name: value`.
    private static func hidden(_ field: String) -> String {
        guard let colon = field.firstIndex(of: ":") else { return "[redacted]" }
        return "\(field[..<colon]): [redacted]"
    }
}
