/// A page in one file: no script, nothing loaded. Light or dark as the reader's system is.
public struct HTMLPage: Sendable {
    public var title: String
    private var parts: [String] = []

    public init(title: String) { self.title = title }

    public mutating func heading(_ text: String) { parts.append("<h2>\(Self.escape(text))</h2>") }
    public mutating func paragraph(_ text: String) { parts.append("<p>\(Self.escape(text))</p>") }
    /// A sentence that nobody may overlook.
    public mutating func warning(_ text: String) { parts.append("<p class=\"warning\">\(Self.escape(text))</p>") }
    public mutating func table(_ table: TextTable) { parts.append("<div class=\"wide\">\(table.html)</div>") }
    /// A table of names and their values, which may be long text: it is wrapped.
    public mutating func facts(_ table: TextTable) { parts.append("<div class=\"facts\">\(table.html)</div>") }
    /// A picture with its caption; `svg` is a whole element.
    public mutating func figure(_ svg: String, caption: String) {
        parts.append("<figure>\(svg)<figcaption>\(Self.escape(caption))</figcaption></figure>")
    }

    public var html: String {
        """
        <!doctype html>
        <html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
        <link rel="icon" href="data:,"><title>\(Self.escape(title))</title>
        <style>
        :root { color-scheme: light dark; --ink: light-dark(#1b1f24, #e6e8ea); --paper: light-dark(#ffffff, #15181c);
          --faint: light-dark(#d5d9de, #3a4048); }
        body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 68rem;
          padding: 0 1rem; }
        h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
        table { border-collapse: collapse; font-variant-numeric: tabular-nums }
        th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap }
        th:first-child, td:first-child { text-align: left }
        .facts th, .facts td { text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere }
        .facts td:first-child { white-space: nowrap }
        .wide { overflow-x: auto } figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto } figcaption { font-size: .85rem; opacity: .8 }
        .warning { border: 2px solid currentColor; padding: .5rem .8rem; font-weight: 600 }
        svg text { fill: var(--ink); font: 12px system-ui, sans-serif }
        </style></head><body>
        <h1>\(Self.escape(title))</h1>
        \(parts.joined(separator: "\n"))
        </body></html>

        """
    }

    /// Text as it may stand in HTML and in its attributes.
    public static func escape(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            // XML has no form for the other control characters.
            case "\u{0}"..."\u{8}", "\u{b}"..."\u{1f}": result += "\u{fffd}"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
