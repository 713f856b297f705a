import FuzzTargets
import Glibc

// swiftlet-fuzz TARGET [libFuzzer's arguments]; swiftlet-fuzz list; swiftlet-fuzz decode|encode < input > output.

/// libFuzzer's loop.
@_silgen_name("LLVMFuzzerRunDriver")
func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ test: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

nonisolated(unsafe) private var target = FuzzTarget.all[0]  // set once, before the driver runs

/// Exported under the name that libFuzzer's own `main` wants, which is linked though it never runs.
@_cdecl("LLVMFuzzerTestOneInput")
func testOneInput(_ bytes: UnsafePointer<UInt8>?, _ length: Int) -> CInt {
    do {
        try target.run(UnsafeRawBufferPointer(start: bytes, count: length))
    } catch {
        let report = "broken promise: \(error)\n"
        _ = report.utf8CString.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count - 1) }
        abort()
    }
    return 0
}

private func readInput() -> [UInt8] {
    var bytes: [UInt8] = []
    while case let byte = getchar(), byte != EOF { bytes.append(UInt8(truncatingIfNeeded: byte)) }
    return bytes
}

private func writeOutput(_ bytes: some Sequence<UInt8>) { for byte in bytes { putchar(CInt(byte)) } }

// libFuzzer starts this program again to merge, without the target.
switch getenv("FUZZ_TARGET").map({ String(cString: $0) }) ?? CommandLine.arguments.dropFirst().first {
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
    if arguments.dropFirst().first == name { arguments.remove(at: 1) }
    setenv("FUZZ_TARGET", chosen.name, 1)
    arguments.insert("-max_len=\(chosen.maximumBytes)", at: 1)
    var pointers = arguments.map { strdup($0) } + [nil]
    var count = CInt(arguments.count)
    let status = pointers.withUnsafeMutableBufferPointer { buffer in
        var base = buffer.baseAddress!
        return runDriver(&count, &base, testOneInput)
    }
    exit(status)
}
