/// Inputs as text that a review can read: printable ASCII stands for itself, everything else for `\n`, `\r`, `\\` or `\xHH`. Line feeds
/// of the file itself mean nothing.
public enum EscapedBytes {
    public static func decode(_ text: String) -> [UInt8]? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            if byte == UInt8(ascii: "\n") { continue }
            guard byte == UInt8(ascii: "\\") else {
                bytes.append(byte)
                continue
            }
            switch rest.popFirst() {
            case UInt8(ascii: "n"): bytes.append(10)
            case UInt8(ascii: "r"): bytes.append(13)
            case UInt8(ascii: "\\"): bytes.append(UInt8(ascii: "\\"))
            case UInt8(ascii: "x"):
                guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else { return nil }
                bytes.append(value)
                rest = rest.dropFirst(2)
            default: return nil
            }
        }
        return bytes
    }

    public static func encode(_ bytes: some Sequence<UInt8>) -> String {
        var text = ""
        var column = 0
        for byte in bytes {
            let piece: String
            switch byte {
            case 10: piece = "\\n"
            case 13: piece = "\\r"
            case UInt8(ascii: "\\"): piece = "\\\\"
            case 32..<127: piece = String(UnicodeScalar(byte))
            default: piece = (byte < 16 ? "\\x0" : "\\x") + String(byte, radix: 16)
            }
            text += piece
            column += piece.utf8.count
            if byte == 10 || column >= 120 {
                text += "\n"
                column = 0
            }
        }
        return text.hasSuffix("\n") ? text : text + "\n"
    }
}
