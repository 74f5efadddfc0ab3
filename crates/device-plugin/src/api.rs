//! The messages of the device plugin API, as far as they are used; names, numbers and types are those of
//! `api.proto`. Fields that are left out are skipped when read.

use std::collections::BTreeMap;

use prost::Message;

/// The version of the API, which the kubelet compares.
pub const VERSION: &str = "v1beta1";
/// The name of the kubelet's socket in the directory that it shares with plugins.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// What a device is said to be while it is plugged in.
pub const HEALTHY: &str = "Healthy";
/// What a device is said to be while it is not.
pub const UNHEALTHY: &str = "Unhealthy";

/// The kubelet's method: takes [`RegisterRequest`], answers [`Empty`].
pub const REGISTER: &str = "/v1beta1.Registration/Register";
/// Takes [`Empty`], answers [`DevicePluginOptions`].
pub const GET_DEVICE_PLUGIN_OPTIONS: &str = "/v1beta1.DevicePlugin/GetDevicePluginOptions";
/// Takes [`Empty`], answers with a stream of [`ListAndWatchResponse`].
pub const LIST_AND_WATCH: &str = "/v1beta1.DevicePlugin/ListAndWatch";
/// Takes [`PreferredAllocationRequest`], answers [`PreferredAllocationResponse`].
pub const GET_PREFERRED_ALLOCATION: &str = "/v1beta1.DevicePlugin/GetPreferredAllocation";
/// Takes [`AllocateRequest`], answers [`AllocateResponse`].
pub const ALLOCATE: &str = "/v1beta1.DevicePlugin/Allocate";

/// Nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

/// What a plugin can do.
#[derive(Clone, PartialEq, Message)]
pub struct DevicePluginOptions {
    /// Whether `PreStartContainer` is to be called.
    #[prost(bool, tag = "1")]
    pub pre_start_required: bool,
    /// Whether `GetPreferredAllocation` can be called.
    #[prost(bool, tag = "2")]
    pub get_preferred_allocation_available: bool,
}

/// A plugin's word to the kubelet that it serves a resource.
#[derive(Clone, PartialEq, Message)]
pub struct RegisterRequest {
    /// [`VERSION`].
    #[prost(string, tag = "1")]
    pub version: String,
    /// The name of the plugin's socket in the shared directory.
    #[prost(string, tag = "2")]
    pub endpoint: String,
    /// The name of the resource.
    #[prost(string, tag = "3")]
    pub resource_name: String,
    /// What the plugin can do.
    #[prost(message, optional, tag = "4")]
    pub options: Option<DevicePluginOptions>,
}

/// All devices of a resource.
#[derive(Clone, PartialEq, Message)]
pub struct ListAndWatchResponse {
    /// In no order that means anything.
    #[prost(message, repeated, tag = "1")]
    pub devices: Vec<Device>,
}

/// A device of a resource.
#[derive(Clone, PartialEq, Message)]
pub struct Device {
    /// At most 63 characters.
    #[prost(string, tag = "1")]
    pub id: String,
    /// [`HEALTHY`] or [`UNHEALTHY`].
    #[prost(string, tag = "2")]
    pub health: String,
}

/// Asks which devices to take.
#[derive(Clone, PartialEq, Message)]
pub struct PreferredAllocationRequest {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerPreferredAllocationRequest>,
}

/// Asks which devices a container should get.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerPreferredAllocationRequest {
    /// The ids to choose from.
    #[prost(string, repeated, tag = "1")]
    pub available_device_ids: Vec<String>,
    /// Those of them that are chosen already.
    #[prost(string, repeated, tag = "2")]
    pub must_include_device_ids: Vec<String>,
    /// How many there are to be in all.
    #[prost(int32, tag = "3")]
    pub allocation_size: i32,
}

/// Answers a [`PreferredAllocationRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct PreferredAllocationResponse {
    /// One for each request, in order.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerPreferredAllocationResponse>,
}

/// The devices that a container should get.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerPreferredAllocationResponse {
    /// Their ids.
    #[prost(string, repeated, tag = "1")]
    pub device_ids: Vec<String>,
}

/// Says which devices containers get.
#[derive(Clone, PartialEq, Message)]
pub struct AllocateRequest {
    /// One a container.
    #[prost(message, repeated, tag = "1")]
    pub container_requests: Vec<ContainerAllocateRequest>,
}

/// Says which devices a container gets.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAllocateRequest {
    /// Their ids.
    #[prost(string, repeated, tag = "1")]
    pub devices_ids: Vec<String>,
}

/// Answers an [`AllocateRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct AllocateResponse {
    /// One for each request, in order.
    #[prost(message, repeated, tag = "1")]
    pub container_responses: Vec<ContainerAllocateResponse>,
}

/// What a container is given; mounts, annotations and CDI devices are not used.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerAllocateResponse {
    /// Environment variables.
    #[prost(btree_map = "string, string", tag = "1")]
    pub envs: BTreeMap<String, String>,
    /// Device nodes.
    #[prost(message, repeated, tag = "3")]
    pub devices: Vec<DeviceSpec>,
}

/// A device node.
#[derive(Clone, PartialEq, Message)]
pub struct DeviceSpec {
    /// Its path in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Its path on the host.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Some of `r`, `w` and `m`, as the devices cgroup has them.
    #[prost(string, tag = "3")]
    pub permissions: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field (protobuf.dev, "Encoding": tag = number << 3 | 2).
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn int(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }

    #[test]
    fn messages_are_encoded_as_the_proto_file_numbers_them() {
        let register = RegisterRequest {
            version: "v".to_owned(),
            endpoint: "e".to_owned(),
            resource_name: "r".to_owned(),
            options: Some(DevicePluginOptions {
                pre_start_required: true,
                get_preferred_allocation_available: true,
            }),
        };
        let options = [int(1, 1), int(2, 1)].concat();
        let expected = [field(1, b"v"), field(2, b"e"), field(3, b"r"), field(4, &options)].concat();
        assert_eq!(register.encode_to_vec(), expected);

        let device = Device { id: "i".to_owned(), health: "h".to_owned() };
        let list = ListAndWatchResponse { devices: vec![device] };
        assert_eq!(list.encode_to_vec(), field(1, &[field(1, b"i"), field(2, b"h")].concat()));

        let container = ContainerPreferredAllocationRequest {
            available_device_ids: vec!["a".to_owned(), "b".to_owned()],
            must_include_device_ids: vec!["m".to_owned()],
            allocation_size: 2,
        };
        let preferred = PreferredAllocationRequest { container_requests: vec![container] };
        let inner = [field(1, b"a"), field(1, b"b"), field(2, b"m"), int(3, 2)].concat();
        assert_eq!(preferred.encode_to_vec(), field(1, &inner));
        let container = ContainerPreferredAllocationResponse { device_ids: vec!["a".to_owned()] };
        let preferred = PreferredAllocationResponse { container_responses: vec![container] };
        assert_eq!(preferred.encode_to_vec(), field(1, &field(1, b"a")));

        let container = ContainerAllocateRequest { devices_ids: vec!["a".to_owned()] };
        let allocate = AllocateRequest { container_requests: vec![container] };
        assert_eq!(allocate.encode_to_vec(), field(1, &field(1, b"a")));
        let node = DeviceSpec {
            container_path: "c".to_owned(),
            host_path: "h".to_owned(),
            permissions: "rw".to_owned(),
        };
        let envs = [("K".to_owned(), "V".to_owned())].into();
        let container = ContainerAllocateResponse { envs, devices: vec![node] };
        let allocate = AllocateResponse { container_responses: vec![container] };
        let node = [field(1, b"c"), field(2, b"h"), field(3, b"rw")].concat();
        let env = [field(1, b"K"), field(2, b"V")].concat();
        assert_eq!(allocate.encode_to_vec(), field(1, &[field(1, &env), field(3, &node)].concat()));
    }

    #[test]
    fn fields_that_are_not_known_are_skipped() {
        let container = [field(2, b"mount"), field(5, b"cdi")].concat();
        let read = ContainerAllocateResponse::decode(&container[..]).unwrap();
        assert_eq!(read, ContainerAllocateResponse::default());
    }
}
