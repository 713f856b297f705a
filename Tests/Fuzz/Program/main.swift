import FuzzTargets
import Glibc

// swiftlet-fuzz TARGET [libFuzzer's arguments]; swiftlet-fuzz list; swiftlet-fuzz decode|encode < input > output.

/// libFuzzer's loop; its own `main` is not linked because this is one.
@_silgen_name("LLVMFuzzerRunDriver")
func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

nonisolated(unsafe) private var target = FuzzTarget.all[0]  // set once, before the driver runs

private func readInput() -> [UInt8] {
    var bytes: [UInt8] = []
    while let byte = Optional(getchar()), byte != EOF { bytes.append(UInt8(truncatingIfNeeded: byte)) }
    return bytes
}

private func writeOutput(_ bytes: some Sequence<UInt8>) { for byte in bytes { putchar(CInt(byte)) } }

setvbuf(stdout, nil, CInt(_IOFBF), 1 << 16)
switch CommandLine.arguments.dropFirst().first {
case "list": for target in FuzzTarget.all { print(target.name) }
case "encode": writeOutput(EscapedBytes.encode(readInput()).utf8)
case "decode":
    guard let bytes = EscapedBytes.decode(String(decoding: readInput(), as: UTF8.self)) else { exit(2) }
    writeOutput(bytes)
case let name:
    guard let chosen = FuzzTarget.all.first(where: { $0.name == name }) else {
        print("swiftlet-fuzz TARGET …, one of: " + FuzzTarget.all.map(\.name).joined(separator: " "))
        exit(2)
    }
    target = chosen
    signal(SIGPIPE, SIG_IGN)
    var arguments = CommandLine.arguments
    arguments.remove(at: 1)
    arguments.insert("-max_len=\(chosen.maximumBytes)", at: 1)
    var pointers = arguments.map { strdup($0) } + [nil]
    var count = CInt(arguments.count)
    let status = pointers.withUnsafeMutableBufferPointer { buffer in
        var base = buffer.baseAddress!
        return runDriver(&count, &base) { bytes, length in
            do {
                try target.run(UnsafeRawBufferPointer(start: bytes, count: length))
            } catch {
                fputs("broken promise: \(error)\n", stderr)
                abort()
            }
            return 0
        }
    }
    exit(status)
}
