//! The TLS configuration for Redis: the authorities to trust, and this machine's own certificate.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::fleet::FleetConfig;

/// Reads the certificates and the key that `config` names.
pub fn client_config(config: &FleetConfig) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &config.ca_file {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| at(file, &error))?;
        }
    } else {
        let system = rustls_native_certs::load_native_certs();
        let (_, _) = roots.add_parsable_certificates(system.certs);
        if roots.is_empty() {
            let why = system.errors.first().map_or_else(|| "it is empty".to_owned(), ToString::to_string);
            return Err(io::Error::other(format!("the system's list of certificate authorities cannot be used, see ca_file: {why}")));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let builder = builder.with_root_certificates(roots);
    match (&config.cert_file, &config.key_file) {
        (Some(cert_file), Some(key_file)) => {
            let key = PrivateKeyDer::from_pem_slice(&read(key_file)?).map_err(|error| at(key_file, &error))?;
            builder.with_client_auth_cert(certificates(cert_file)?, key).map_err(|error| at(cert_file, &error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(&read(file)?).collect::<Result<Vec<_>, _>>().map_err(|error| at(file, &error))?;
    if found.is_empty() { Err(at(file, &"found no certificate, expected at least one in PEM")) } else { Ok(found) }
}

fn at(file: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// Reads a file with a certificate or its key, and names it in an error.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    fs::read(file).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}
