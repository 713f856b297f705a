import Foundation
import Testing

/// Whether text is well-formed XML, as a browser would take the picture.
func isWellFormed(_ svg: String) -> Bool { depth(svg) == 0 }

/// Elements that are left open at the end; nil-like -1 when a closing tag fits nothing.
private func depth(_ xml: String) -> Int {
    var open: [Substring] = []
    for match in xml.matches(of: /<(\/?)([a-z]+)(?:\s+[a-zA-Z0-9:-]+="[^"<]*")*\s*(\/?)>/) {
        if match.1 == "/" {
            guard open.popLast() == match.2 else { return -1 }
        } else if match.3.isEmpty {
            open.append(match.2)
        }
    }
    let tags = xml.matches(of: /</).count
    return tags == xml.matches(of: /<(\/?)([a-z]+)(?:\s+[a-zA-Z0-9:-]+="[^"<]*")*\s*(\/?)>/).count ? open.count : -1
}
