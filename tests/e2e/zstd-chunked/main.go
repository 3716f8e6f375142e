// Copies images as skopeo does, with the library that skopeo, podman and buildah are made of:
//
//	zstd-chunked push LAYOUT:TAG REGISTRY/REPOSITORY:TAG       compressed as zstd:chunked
//	zstd-chunked pull REGISTRY/REPOSITORY:TAG FOLDER DRIVER    into a containers store, in part where it can
//
// Registries are spoken to by plain HTTP.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/pkg/compression"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage/pkg/reexec"

	store "go.podman.io/storage"
)

func main() {
	// The store starts this program again to unpack layers.
	if reexec.Init() {
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "zstd-chunked:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 3 && arguments[0] == "push":
		return push(arguments[1], arguments[2])
	case len(arguments) == 4 && arguments[0] == "pull":
		return pull(arguments[1], arguments[2], arguments[3])
	default:
		return errors.New("see the top of main.go for the arguments")
	}
}

func push(from, to string) error {
	source, err := layout.ParseReference(from)
	if err != nil {
		return err
	}
	destination, err := docker.ParseReference("//" + to)
	if err != nil {
		return err
	}
	algorithm := compression.ZstdChunked
	return copyImage(destination, source, &copy.Options{
		ReportWriter:           os.Stderr,
		DestinationCtx:         &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue, CompressionFormat: &algorithm},
		ForceCompressionFormat: true,
	})
}

func pull(from, folder, driver string) error {
	containers, err := store.GetStore(store.StoreOptions{
		RunRoot:         folder + "/run",
		GraphRoot:       folder + "/graph",
		GraphDriverName: driver,
		PullOptions:     map[string]string{"enable_partial_images": "true"},
	})
	if err != nil {
		return err
	}
	source, err := docker.ParseReference("//" + from)
	if err != nil {
		return err
	}
	destination, err := storage.Transport.ParseStoreReference(containers, from)
	if err != nil {
		return err
	}
	insecure := &types.SystemContext{DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	if err := copyImage(destination, source, &copy.Options{ReportWriter: os.Stderr, SourceCtx: insecure}); err != nil {
		return err
	}
	_, err = containers.Shutdown(true)
	return err
}

func copyImage(destination, source types.ImageReference, options *copy.Options) error {
	accept := signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: accept})
	if err != nil {
		return err
	}
	defer policy.Destroy()
	_, err = copy.Image(context.Background(), policy, destination, source, options)
	return err
}
