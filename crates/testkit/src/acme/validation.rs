//! Looking at a name by TLS-ALPN-01 (RFC 8737 section 3), as strictly as it says.

use std::net::SocketAddr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const PROTOCOL: &[u8] = b"acme-tls/1";
/// `id-pe-acmeIdentifier`.
const EXTENSION: &str = "1.3.6.1.5.5.7.1.31";

/// Checks whether who listens there has the name; says why not.
pub(super) async fn at(address: SocketAddr, name: &str, authorization: &str) -> Result<(), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config()));
    let host = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let mut stream = connector.connect(host, stream).await.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    if session.alpn_protocol() != Some(PROTOCOL) {
        return Err("acme-tls/1 is not what is spoken".to_owned());
    }
    let Some([certificate]) = session.peer_certificates() else {
        return Err("not one certificate".to_owned());
    };
    check(certificate, name, authorization)?;
    match stream.read(&mut [0]).await {
        Ok(0) => Ok(()),
        other => Err(format!("the connection goes on: {other:?}")),
    }
}

fn check(certificate: &CertificateDer<'_>, name: &str, authorization: &str) -> Result<(), String> {
    let parsed = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?.1;
    if parsed.subject() != parsed.issuer() {
        return Err("the certificate is not its own issuer's".to_owned());
    }
    let names = parsed.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice());
    if !matches!(names, Some([GeneralName::DNSName(one)]) if *one == name) {
        return Err(format!("the certificate is not for this name alone: {names:?}"));
    }
    let expected = [&[4, 32], digest(&SHA256, authorization.as_bytes()).as_ref()].concat();
    let mut extensions = parsed.extensions().iter();
    match extensions.find(|extension| extension.oid.to_id_string() == EXTENSION) {
        Some(extension) if extension.critical && extension.value == expected => Ok(()),
        Some(_) => Err("the key authorization is another".to_owned()),
        None => Err("no key authorization".to_owned()),
    }
}

fn config() -> ClientConfig {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&ring))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(ring)))
        .with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

/// Takes every certificate: what matters is in it.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    /// By the key alone: what checks certificates does not know the extension, which is critical.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let parsed = X509Certificate::from_der(certificate);
        let parsed = parsed.map_err(|error| rustls::Error::General(error.to_string()))?.1;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
