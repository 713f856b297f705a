import Configuration

@Sendable func fuzzConfiguration(_ input: UnsafeRawBufferPointer) throws {
    let text = String(decoding: input, as: UTF8.self)
    guard let configuration = try? SwiftletConfiguration.load(text: text, file: "fuzz") else { return }
    let again: SwiftletConfiguration
    do throws(ConfigurationError) {
        again = try SwiftletConfiguration.load(text: configuration.effectiveYAML(), file: "effective")
    } catch {
        throw FuzzFinding(description: "the effective configuration is refused: \(error)\n\(configuration.effectiveYAML())")
    }
    try check(again == configuration, "the effective configuration reads back equal:\n\(configuration.effectiveYAML())")
}
