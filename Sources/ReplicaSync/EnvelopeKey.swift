import COpenSSL

/// The secret that replicas share, ready to sign and to check: HMAC-SHA256 cut to 16 bytes (RFC 2104, RFC 6234). Confined to one thread.
package final class EnvelopeKey {
    package static let tagBytes = 16
    private static let digestBytes = 32

    /// Ours alone, freed with us.
    private let context: OpaquePointer

    /// Nil when OpenSSL has no memory, or no SHA-256.
    package init?(_ secret: [UInt8]) {
        guard let context = secret.withUnsafeBufferPointer({ swl_hmac_open($0.baseAddress, $0.count) }) else { return nil }
        self.context = context
    }

    deinit { EVP_MAC_CTX_free(context) }

    /// Writes the tag of `bytes`; false when OpenSSL refuses.
    func sign(_ bytes: UnsafeRawBufferPointer, into tag: UnsafeMutableRawBufferPointer) -> Bool {
        withDigest(of: bytes) { digest in
            tag.copyMemory(from: UnsafeRawBufferPointer(rebasing: digest[..<Self.tagBytes]))
            return true
        }
    }

    /// Whether `tag` is that of `bytes`, in a time that does not tell how much of it is right.
    func verify(_ tag: UnsafeRawBufferPointer, of bytes: UnsafeRawBufferPointer) -> Bool {
        guard tag.count == Self.tagBytes else { return false }
        return withDigest(of: bytes) { CRYPTO_memcmp($0.baseAddress, tag.baseAddress, Self.tagBytes) == 0 }
    }

    private func withDigest(of bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Bool) -> Bool {
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: Self.digestBytes) { digest in
            let isMade = swl_hmac(context, bytes.baseAddress?.assumingMemoryBound(to: UInt8.self), bytes.count, digest.baseAddress)
            return isMade == 1 && body(UnsafeRawBufferPointer(digest))
        }
    }
}
